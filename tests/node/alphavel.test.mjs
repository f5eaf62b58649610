// alphavel.js against the real server, in Node with the package ws. Run by tests/websocket/test_alphavel_js.py, or:
//   ALPHA=.venv/bin/alpha node --test tests/node/alphavel.test.mjs
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import { dirname, join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { EventSource } from "eventsource";
import Pusher from "pusher-js";
import WebSocket, { WebSocketServer } from "ws";
import { recover } from "../../alphavel/websocket/http/static/alphavel-pusher.js";
import { Alphavel, AlphavelError, PresenceChannel } from "../../alphavel/websocket/http/static/alphavel.js";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const SECRET = "a secret that is long enough for HS256, and then some more";
const PATIENCE_MS = 60_000;
const [LOWEST, HIGHEST] = (process.env.TEST_PORTS ?? "20000-32000").split("-").map(Number);

/** A port that nobody listens on, and that the system gives to no client while a server is away: below the ephemeral ones. */
async function freePort() {
  for (;;) {
    const port = LOWEST + Math.floor(Math.random() * (HIGHEST - LOWEST));
    const server = net.createServer().listen(port, "127.0.0.1");
    const free = await new Promise((resolve) => server.on("listening", () => resolve(true)).on("error", () => resolve(false)));
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

class Server {
  constructor(port) {
    this.port = port;
    this.url = `http://127.0.0.1:${port}/`;
  }

  async start() {
    const command = ["websocket:serve", "--app", "tests.node.app:app", "--host", "127.0.0.1", "--port", String(this.port)];
    const env = { ...process.env, ALPHAVEL_JWT_SECRET: SECRET, ALPHAVEL_CONFIG: join(ROOT, "tests/node/config") };
    this.process = spawn(process.env.ALPHA ?? "alpha", command, { cwd: ROOT, env, stdio: ["ignore", "ignore", "inherit"] });
    await eventually(async () => (await fetch(`${this.url}health`).catch(() => null))?.ok);
    return this;
  }

  async stop(signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill(signal);
    await once(this.process, "exit");
  }
}

async function eventually(condition) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not in time: ${condition}`);
    await sleep(10);
  }
}

let server;
const clients = [];
const servers = [];

before(async () => {
  server = await new Server(await freePort()).start();
});
after(() => Promise.all([server, ...servers].map((each) => each.stop("SIGKILL"))));
afterEach(() => clients.splice(0).forEach((client) => client.close()));

async function ownServer() {
  const own = await new Server(await freePort()).start();
  servers.push(own);
  return own;
}

const tokenOf = async (user, seconds = 60) => (await fetch(`${server.url}token?user=${user}&seconds=${seconds}`)).text();

/** A client whose back-off is short, with a record of what it said of itself. */
function client(options = {}, { url = server.url } = {}) {
  const made = new Alphavel(url, { WebSocket, token: () => tokenOf("1"), backoffMs: 50, ...options });
  made.told = [];
  for (const type of ["statechange", "close", "error", "tokenexpiring", "refreshed"]) {
    made.addEventListener(type, ({ detail }) => made.told.push({ type, detail }));
  }
  made.all = (type) => made.told.filter((entry) => entry.type === type).map((entry) => entry.detail);
  clients.push(made);
  return made;
}

const next = (target, type) => new Promise((resolve) => target.addEventListener(type, ({ detail }) => resolve(detail), { once: true }));
const heard = (target, event) => {
  const list = [];
  target.on(event, (data) => list.push(data));
  return list;
};

// Connecting

test("connects with its token as a subprotocol", async () => {
  const one = client();
  assert.equal(one.state, "idle");
  await one.connect();
  assert.equal(one.state, "connected");
  assert.match(one.socketId, /^\d+\.\d+$/);
  assert.deepEqual(one.all("statechange").map(({ state }) => state), ["connecting", "connected"]);
  await one.connect();
});

test("connects with its token in the query string", async () => {
  await client({ tokenIn: "query", token: await tokenOf("1") }).connect();
});

test("turns the addresses of pages into those of sockets", () => {
  assert.throws(() => new Alphavel("/", { WebSocket }), TypeError);
  assert.doesNotThrow(() => new Alphavel("https://example.com/socket#part", { WebSocket }));
  assert.throws(() => new Alphavel("ws://example.com/", { WebSocket: null }), /pass one/);
});

test("goes on trying while tokens cannot be had", async () => {
  let asked = 0;
  const token = () => (++asked < 3 ? Promise.reject(new Error("no network")) : tokenOf("1"));
  const one = client({ token });
  await one.connect();
  assert.equal(asked, 3);
  assert.deepEqual(one.all("error").map((error) => [error.code, error.cause.message]), Array(2).fill(["token", "no network"]));
});

test("goes on trying when the handshake is refused, with a fresh token each time", async () => {
  let asked = 0;
  const one = client({ token: () => (++asked < 3 ? "forged" : tokenOf("1")) });
  await one.connect();
  assert.equal(asked, 3);
  assert.deepEqual(one.all("close").map(({ code }) => code), [1006, 1006]);
});

test("gives up at once with a token that cannot be sent, and does not show it", async () => {
  const one = client({ token: "not a token, a secret" });
  await assert.rejects(one.connect(), (error) => error instanceof AlphavelError && !/secret/.test(`${error.message}${error.cause}`));
  assert.equal(one.state, "closed");
});

test("gives up an attempt that takes too long", async () => {
  const silent = net.createServer(() => {}).listen(0, "127.0.0.1");
  await once(silent, "listening");
  const one = client({ connectTimeoutMs: 100, backoffMs: 60_000 }, { url: `ws://127.0.0.1:${silent.address().port}/` });
  one.connect();
  const { code, reason } = await next(one, "close");
  assert.deepEqual([code, reason, one.state], [1006, "no connection in time", "waiting"]);
  one.close();
  silent.close();
});

test("closes for good", async () => {
  const one = client();
  const waiting = one.connect();
  one.close();
  await assert.rejects(waiting, { code: "closed" });
  assert.equal(one.state, "closed");
  await assert.rejects(one.send("echo"), { code: "closed" });
  await assert.rejects(one.subscribe("a"), { code: "closed" });
  await one.connect();
  assert.equal(one.state, "connected");
});

// Channels

test("subscribes to a public channel", async () => {
  const one = client();
  assert.deepEqual(await one.subscribe("news"), []);
  assert.equal(one.channel("news").subscribed, true);
  assert.deepEqual(await Promise.all([one.subscribe("news"), one.subscribe("other"), one.subscribe("other")]), [[], [], []]);
});

test("is told why a subscription is refused", async () => {
  const one = client();
  await assert.rejects(one.subscribe("private-nobody"), { name: "AlphavelError", code: 4009, channel: "private-nobody" });
  await assert.rejects(one.subscribe("not a name"), { code: 4400, channel: "not a name" });
  await assert.rejects(one.subscribe("x".repeat(165)), { code: 4413 });
  assert.deepEqual(one.all("error"), []);
  assert.equal(one.channel("private-nobody").subscribed, false);
});

test("hands events to the listeners of their channel and of all", async () => {
  const one = client();
  const [onChannel, onOther, onClient, everything] = [
    heard(one.channel("news"), "headline"), heard(one.channel("other"), "headline"), heard(one, "headline"), heard(one, "*"),
  ];
  await Promise.all([one.subscribe("news"), one.subscribe("other")]);
  const off = one.channel("news").on("headline", () => assert.fail("this listener was taken off"));
  off();
  const url = `${server.url}push/news/headline`;
  const json = { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"text":"hi"}' };
  assert.equal((await (await fetch(url, json)).json()).queued, 1);
  await eventually(() => onChannel.length);
  assert.deepEqual([onChannel, onOther, onClient], [[{ text: "hi" }], [], [{ text: "hi" }]]);
  assert.ok(everything.length >= 4); // connected, twice subscribed, headline
  json.headers["X-Socket-ID"] = one.socketId;
  assert.equal((await (await fetch(url, json)).json()).queued, 0);
});

test("outlives a listener that throws", async () => {
  const one = client();
  const reported = new Promise((resolve) => (globalThis.reportError = resolve)); // browsers have it, Node has not
  one.on("echoed", () => {
    throw new Error("a bug of the application");
  });
  const list = heard(one, "echoed");
  await one.send("echo", 1);
  assert.equal((await reported).message, "a bug of the application");
  await eventually(() => list.length);
  delete globalThis.reportError;
});

test("leaves a channel, and comes back", async () => {
  const one = client();
  const room = one.channel("chat.leaving");
  await room.subscribe();
  await room.unsubscribe();
  assert.equal(room.subscribed, false);
  const list = heard(room, "said");
  const [left] = await Promise.allSettled([room.subscribe(), room.unsubscribe(), room.subscribe(), room.unsubscribe()]);
  assert.equal(left.reason.code, "left");
  await room.subscribe();
  assert.equal(room.subscribed, true);
  await room.unsubscribe();
  const two = client();
  await two.subscribe("chat.leaving");
  await two.broadcast("chat.leaving", "said", "to nobody");
  await two.subscribe("chat.after"); // what came before has been done when this is answered
  await one.subscribe("chat.after");
  assert.deepEqual(list, []);
});

test("knows who is present", async () => {
  const [one, two, again] = [client(), client({ token: () => tokenOf("2") }), client({ token: () => tokenOf("2") })];
  const room = one.presence("presence-room.a");
  assert.ok(room instanceof PresenceChannel);
  const seen = [];
  room
    .here((members) => seen.push(["here", members.map(({ id }) => id)]))
    .joining(({ id, info }) => seen.push(["joining", id, info.name]))
    .leaving(({ id }) => seen.push(["leaving", id]));
  const [self] = await room.subscribe();
  assert.deepEqual([self.id, self.info], ["1", { name: "User 1" }]);
  const ids = (await two.subscribe("presence-room.a")).map(({ id }) => id);
  assert.deepEqual(ids, ["1", "2"]);
  await again.subscribe("presence-room.a"); // the same user once more: nobody is told
  await eventually(() => room.members.length === 2);
  two.close();
  again.close();
  await eventually(() => room.members.length === 1);
  assert.deepEqual(seen, [["here", ["1"]], ["joining", "2", "User 2"], ["leaving", "2"]]);
  assert.throws(() => one.presence("room"), /presence-/);
});

// Messages

test("sends events, and hears of handlers that fail", async () => {
  const one = client();
  const echoes = heard(one, "echoed");
  await one.send("echo", { text: "héllo" });
  await eventually(() => echoes.length);
  assert.deepEqual(echoes, [{ text: "héllo" }]);
  await one.send("fail");
  await one.send("nobody listens");
  await eventually(() => one.all("error").length === 2);
  assert.deepEqual(one.all("error").map(({ code, event }) => [code, event]), [[4500, "fail"], [4404, "nobody listens"]]);
  await assert.rejects(one.send("subscribe", { channel: "a" }), TypeError);
});

test("broadcasts and whispers to the others on a channel", async () => {
  const [one, two] = [client(), client({ token: () => tokenOf("2") })];
  const [mine, theirs] = [one.channel("chat.b"), two.channel("chat.b")];
  assert.equal(mine.whisper("typing"), false);
  const [atHome, there, whispered] = [heard(mine, "said"), heard(theirs, "said"), heard(theirs, "typing")];
  await Promise.all([mine.subscribe(), theirs.subscribe()]);
  await mine.broadcast("said", { text: "hi" });
  assert.equal(mine.whisper("typing", { on: true }), true);
  await eventually(() => whispered.length);
  assert.deepEqual([atHome, there, whispered], [[], [{ text: "hi" }], [{ on: true }]]);
  await one.subscribe("open");
  await one.broadcast("open", "said", "no authorizer grants this");
  assert.deepEqual((({ code, channel }) => [code, channel])(await next(one, "error")), [4009, "open"]);
});

test("keeps what is sent while it is away, within bounds and in order", async () => {
  const one = client({ maxQueue: 3 });
  const echoes = heard(one, "echoed");
  await one.connect();
  await one.send("close me", { code: 4200 });
  await next(one, "close");
  const sent = [1, 2, 3].map((number) => one.send("echo", number));
  await assert.rejects(one.send("echo", 4), { code: "queue-full" });
  await assert.rejects(one.send("echo", 5, { queue: false }), { code: "not-connected" });
  await Promise.all(sent);
  await eventually(() => echoes.length === 3);
  assert.deepEqual(echoes, [1, 2, 3]);
});

test("refuses what waits when it is closed", async () => {
  const one = client({ token: () => new Promise(() => {}) });
  const sent = one.send("echo", 1);
  const joined = one.subscribe("news");
  one.close();
  await assert.rejects(sent, { code: "closed" });
  await assert.rejects(joined, { code: "closed" });
});

// Losing the connection

for (const [code, least, most] of [[4100, 1000, 2000], [4150, 1000, 2000], [4200, 0, 200], [4201, 0, 200], [1000, 0, 50], [4500, 0, 50]]) {
  test(`comes back after close code ${code}`, async () => {
    const one = client();
    await one.connect();
    const { socketId } = one;
    await one.send("close me", { code });
    const closed = await next(one, "close");
    assert.equal(closed.code, code);
    assert.ok(closed.retryInMs >= least && closed.retryInMs <= most, `${closed.retryInMs} ms`);
    assert.equal(one.state, "waiting");
    assert.ok(one.retryAt > Date.now() - 1000);
    await one.connect();
    assert.notEqual(one.socketId, socketId);
  });
}

test("stays away after close codes 4000 to 4099", async () => {
  for (const code of [4000, 4001, 4099]) {
    const one = client();
    await one.connect();
    const waiting = one.subscribe("news").then(() => one.send("close me", { code }));
    await waiting;
    const closed = await next(one, "close");
    assert.deepEqual([closed.code, closed.reason, closed.retryInMs, one.state], [code, "asked for", null, "closed"]);
  }
});

test("backs off further with each failure, up to a bound", async () => {
  const one = client({ token: () => Promise.reject(new Error("never")), backoffMs: 8, maxBackoffMs: 32 });
  one.connect();
  await eventually(() => one.all("close").length >= 12);
  const waits = one.all("close").map(({ retryInMs }) => retryInMs);
  waits.forEach((wait, failures) => assert.ok(wait <= Math.min(32, 8 * 2 ** failures), `${wait} ms after ${failures} failures`));
  assert.ok(new Set(waits).size > 6, "the waits are random");
});

test("resubscribes with a fresh token when the server has been restarted", async () => {
  const own = await ownServer();
  let asked = 0;
  const token = () => (asked += 1, tokenOf("1"));
  const one = client({ token }, { url: own.url });
  const here = [];
  one.presence("presence-room.r").here((members) => here.push(members.length));
  const news = heard(one.channel("news"), "headline");
  await Promise.all([one.subscribe("presence-room.r"), one.subscribe("news")]);
  await own.stop();
  await eventually(() => one.state === "waiting");
  assert.equal(one.all("close")[0].code, 4200);
  assert.equal(one.channel("news").subscribed, false);
  await own.start();
  await eventually(() => one.channel("news").subscribed && here.length === 2);
  const json = { method: "POST", headers: { "Content-Type": "application/json" }, body: '"hi"' };
  await fetch(`${own.url}push/news/headline`, json);
  await eventually(() => news.length);
  assert.ok(asked >= 2);
});

test("notices a server that hangs, and comes back when it is well again", async () => {
  const own = await ownServer();
  const one = client({ pingAfterMs: 100, pongTimeoutMs: 2000, connectTimeoutMs: 10_000 }, { url: own.url });
  await one.connect();
  await sleep(500); // several pings, all answered
  assert.equal(one.state, "connected");
  own.process.kill("SIGSTOP");
  const closed = await next(one, "close");
  assert.deepEqual([closed.code, closed.reason], [1006, "the server does not answer"]);
  own.process.kill("SIGCONT");
  await one.connect();
});

test("refuses to fill the socket of a server that does not read", async () => {
  const own = await ownServer();
  const one = client({ maxBufferedBytes: 100_000 }, { url: own.url });
  await one.connect();
  own.process.kill("SIGSTOP");
  const flood = async () => {
    for (;;) await one.send("echo", "x".repeat(50_000));
  };
  await assert.rejects(flood(), { code: "queue-full" });
  own.process.kill("SIGCONT");
});

test("tells when a channel is not granted any more", async () => {
  const one = client();
  await one.subscribe("private-once.1");
  const errors = heard(one.channel("private-once.1"), "error");
  await one.send("close me", { code: 4200 });
  const error = await next(one, "error");
  assert.deepEqual([error.code, error.channel, errors.length], [4009, "private-once.1", 1]);
  assert.equal(one.channel("private-once.1").subscribed, false);
});

test("tells when rights are taken back", async () => {
  const one = client();
  await one.subscribe("private-once.9");
  const ended = heard(one.channel("private-once.9"), "unsubscribed");
  const told = next(one, "error");
  await fetch(`${server.url}reauthorize/private-once.9`, { method: "POST" });
  const error = await told;
  assert.deepEqual([error.code, error.channel, ended.length], [4009, "private-once.9", 1]);
  assert.equal(one.channel("private-once.9").subscribed, false);
});

// Channels that keep a history

const push = (channel, event, data, url = server.url) =>
  fetch(`${url}push/${channel}/${event}`, { method: "POST", body: JSON.stringify(data), headers: { "Content-Type": "application/json" } });

test("is sent what has changed, and tells whole messages", async () => {
  const sent = [];
  class Listening extends WebSocket {
    set onmessage(listener) {
      super.onmessage = listener && ((message) => {
        sent.push(JSON.parse(message.data));
        listener(message);
      });
    }
  }
  const one = client({ delta: true, WebSocket: Listening });
  const room = one.channel("tick.1");
  const ticks = heard(room, "tick");
  room.on("tick", (data) => {
    data.bid = "spoiled"; // what listeners do with their data changes no later one
    data.venue.name = "spoiled";
  });
  await room.subscribe();
  const venue = { name: "a venue with a long name", open: true };
  const told = [
    { pair: "EURUSD", bid: 1, venue },
    { pair: "EURUSD", bid: 2, venue },
    { pair: "EURUSD", bid: 2, venue: { ...venue, open: false } },
    { bid: 2, venue: { ...venue, open: false } },
  ];
  for (const [index, data] of told.entries()) {
    const copy = structuredClone(data);
    await push("tick.1", "tick", data);
    await eventually(() => ticks.length === index + 1);
    copy.bid = copy.venue.name = "spoiled";
    assert.deepEqual(ticks[index], copy);
  }
  const changes = sent.filter((event) => event.event === "tick").map((event) => event.delta);
  assert.deepEqual(changes, [undefined, { bid: 2 }, { venue: { open: false } }, { pair: null }]);
  const late = client({ delta: true });
  const others = heard(late.channel("tick.1"), "*");
  await late.subscribe("tick.1");
  await push("tick.1", "tick", { ...told[3], bid: 9 });
  await eventually(() => others.length === 2);
  assert.deepEqual(others[1], { ...told[3], bid: 9 });
});

test("misses nothing while it is away", async () => {
  const one = client({ backoffMs: 300 });
  const room = one.channel("kept.1");
  const numbers = heard(room, "number");
  const lost = [];
  room.lost(() => lost.push(true));
  await room.subscribe();
  await push("kept.1", "number", 1);
  await eventually(() => numbers.length === 1);
  await one.send("close me", { code: 4100 });
  await next(one, "close");
  for (const number of [2, 3, 4]) await push("kept.1", "number", number);
  await eventually(() => room.subscribed && numbers.length === 4);
  await push("kept.1", "number", 5);
  await eventually(() => numbers.length === 5);
  assert.deepEqual([numbers, lost], [[1, 2, 3, 4, 5], []]);
});

test("is told when it has missed something", async () => {
  const own = await ownServer();
  const one = client({}, { url: own.url });
  const room = one.channel("kept.2");
  let lost = 0;
  room.lost(() => lost++);
  await room.subscribe();
  await own.stop();
  await own.start();
  await eventually(() => lost === 1 && room.subscribed);
  const numbers = heard(room, "number");
  await push("kept.2", "number", 1, own.url);
  await eventually(() => numbers.length === 1);
});

test("reads what was said, and begins with the last of it", async () => {
  for (const number of [1, 2, 3, 4]) await push("kept.3", "number", number);
  const one = client();
  const room = one.channel("kept.3");
  const numbers = heard(room, "number");
  await room.subscribe({ rewind: 2 });
  await eventually(() => numbers.length === 2);
  assert.deepEqual(numbers, [3, 4]);
  const { epoch, serial, messages } = await room.history({ limit: 3 });
  assert.deepEqual([serial, messages.map((message) => message.data)], [4, [2, 3, 4]]);
  const since = await room.history({ since: { epoch, serial: 1 }, limit: 2 });
  assert.deepEqual([since.recovered, since.messages.map((message) => message.serial)], [true, [2, 3]]);
  await assert.rejects(one.history("private-never"), { code: 4009 });
  await assert.rejects(one.history("news"), { code: 4400 });
});

// Where no WebSocket can be had

/** A proxy of the kind that lets no WebSocket through. */
async function blockingProxy() {
  const proxy = http.createServer((request, response) => {
    const { method, url, headers } = request;
    const onward = http.request({ host: "127.0.0.1", port: server.port, method, path: url, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  });
  Object.assign(proxy, { blocks: true, holds: false, held: [] });
  proxy.on("upgrade", (request, socket, head) => {
    if (proxy.holds) return proxy.held.push([request, socket, head]);
    if (proxy.blocks) return socket.destroy();
    const onward = net.connect(server.port, "127.0.0.1", () => {
      const lines = request.rawHeaders.map((text, index) => (index % 2 ? `${text}\r\n` : `${text}: `)).join("");
      onward.write(`GET ${request.url} HTTP/1.1\r\n${lines}\r\n`);
      onward.write(head);
      socket.pipe(onward).pipe(socket);
    });
    onward.on("error", () => socket.destroy());
    socket.on("error", () => onward.destroy());
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  proxy.url = `http://127.0.0.1:${proxy.address().port}/`;
  return proxy;
}

test("listens to an event stream where a proxy lets no WebSocket through", async () => {
  const proxy = await blockingProxy();
  const one = client({ EventSource }, { url: proxy.url });
  const room = one.presence("presence-room.77");
  const kept = one.channel("kept.4");
  const numbers = heard(kept, "number");
  for (const number of [0, 1]) await push("kept.4", "number", number);
  const [members] = await Promise.all([room.subscribe(), kept.subscribe({ rewind: 1 })]);
  assert.deepEqual(members.map(({ id }) => id), ["1"]);
  assert.match(one.socketId, /^\d+\.\d+$/);
  await eventually(() => numbers.length === 1);
  await assert.rejects(one.send("echo", 1), { code: "one-way" });
  assert.equal(room.whisper("typing"), false);
  const news = heard(one.channel("news.77"), "headline");
  const later = one.subscribe("news.77"); // another channel: it connects anew, and misses nothing meanwhile
  await push("kept.4", "number", 2);
  await later;
  await push("news.77", "headline", "hi");
  await eventually(() => news.length === 1 && numbers.length === 2);
  assert.deepEqual(numbers, [1, 2]);
  await one.unsubscribe("news.77");
  const all = heard(one, "headline");
  await push("news.77", "headline", "nobody hears it");
  await push("kept.4", "number", 3);
  await eventually(() => numbers.length === 3);
  assert.deepEqual(all, []);
  await one.subscribe("news.77"); // the same channel again: the stream that it had left is over
  await push("news.77", "headline", "again");
  await eventually(() => news.length === 2);
  assert.deepEqual(news, ["hi", "again"]);
  one.close();
  proxy.closeAllConnections();
  proxy.close();
});

test("refuses what waited where nothing can be sent in the end", async () => {
  const proxy = await blockingProxy();
  const one = client({ EventSource, connectTimeoutMs: 1000 }, { url: proxy.url });
  await assert.rejects(one.send("echo", 1), { code: "one-way" });
  one.close();
  const silent = client({ EventSource, connectTimeoutMs: 1000 }, { url: proxy.url });
  proxy.on("request", () => (proxy.holds = true)); // the WebSocket that it looks for then gets no answer
  await assert.rejects(silent.send("echo", 1), { code: "one-way" });
  silent.close();
  for (const [, socket] of proxy.held) socket.destroy();
  proxy.closeAllConnections();
  proxy.close();
});

test("streams nothing because tokens could not be had", async () => {
  let asked = 0;
  const one = client({ EventSource, token: () => (++asked < 4 ? Promise.reject(new Error("no network")) : tokenOf("1")) });
  const echoes = heard(one, "echoed");
  await one.send("echo", 1);
  await eventually(() => echoes.length === 1);
  assert.equal(one.all("close").length, 3); // none of which went on from a stream to a WebSocket
});

test("stays closed though a WebSocket could be had afterwards", async () => {
  const proxy = await blockingProxy();
  const one = client({ EventSource }, { url: proxy.url });
  proxy.on("request", () => (proxy.holds = true)); // once events are streamed, it looks for a WebSocket
  await one.subscribe("news.79");
  const [request, socket, head] = await eventually(() => proxy.held[0]);
  one.close();
  proxy.holds = proxy.blocks = false;
  proxy.emit("upgrade", request, socket, head);
  await once(socket, "close"); // it was opened, and closed again
  assert.equal(one.state, "closed");
  proxy.closeAllConnections();
  proxy.close();
});

test("goes back to a WebSocket where the server was merely away", async () => {
  const proxy = await blockingProxy();
  const one = client({ EventSource }, { url: proxy.url });
  one.addEventListener("close", () => one.all("close").length === 2 && (proxy.blocks = false));
  const echoes = heard(one, "echoed");
  const sent = one.send("echo", "while it was away"); // it waits for a way to be sent
  await one.subscribe("presence-room.78");
  await Promise.all([sent, one.send("echo", "as soon as it was there")]);
  await eventually(() => echoes.length === 2);
  assert.deepEqual(echoes, ["while it was away", "as soon as it was there"]);
  one.close();
  proxy.closeAllConnections();
  proxy.close();
});

// Tokens that expire

test("renews its token before it expires", async () => {
  let asked = 0;
  const one = client({ token: () => tokenOf("1", ++asked === 1 ? 2 : 60) });
  await one.connect();
  const { expiresAt } = await next(one, "tokenexpiring");
  assert.ok(expiresAt > Date.now());
  await next(one, "refreshed");
  await sleep(expiresAt - Date.now() + 1500); // the server looks once a second
  assert.deepEqual([one.state, asked, one.all("close").length], ["connected", 2, 0]);
});

test("takes a fresh token from the application", async () => {
  const one = client({ token: await tokenOf("1", 2) });
  await one.connect();
  await next(one, "tokenexpiring");
  await assert.rejects(one.refresh("forged"), { code: 4009 });
  await assert.rejects(one.refresh(await tokenOf("2")), { code: 4009 });
  const until = await one.refresh(await tokenOf("1", 60));
  assert.ok(until > Date.now() + 30_000);
});

test("comes back with a fresh token when the old one could not be renewed in time", async () => {
  const answers = [() => tokenOf("1", 2), () => Promise.reject(new Error("no network"))];
  const one = client({ token: () => (answers.length ? answers.shift()() : tokenOf("1")), pingAfterMs: 60_000 });
  await one.connect();
  const again = next(one, "close");
  const error = await next(one, "error");
  assert.deepEqual([error.code, error.cause.message], ["token", "no network"]);
  assert.equal((await again).code, 4009);
  await one.connect();
});

test("stays away when its only token has expired", async () => {
  const one = client({ token: await tokenOf("1", 1) });
  await one.connect();
  const closed = await next(one, "close");
  assert.deepEqual([closed.code, closed.retryInMs, one.state], [4009, null, "closed"]);
});

// The plug-in for pusher-js

test("alphavel-pusher.js does no harm with servers of others", async () => {
  const other = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  const say = (socket, event, more) => socket.send(JSON.stringify({ event, ...more }));
  other.on("connection", (socket) => {
    say(socket, "pusher:connection_established", { data: { socket_id: "1.1", activity_timeout: 120 } });
    socket.on("message", (text) => {
      const { channel } = JSON.parse(text).data;
      if (channel !== "second") say(socket, "pusher_internal:subscription_succeeded", { channel }); // some say no more
      else say(socket, "pusher_internal:subscription_succeeded", { channel, data: {} }); // or what is no text
    });
  });
  await once(other, "listening");
  const { port } = other.address();
  const pusher = recover(new Pusher("key", { wsHost: "127.0.0.1", wsPort: port, forceTLS: false, cluster: "", enabledTransports: ["ws"] }));
  const subscribed = (name) => new Promise((resolve) => pusher.subscribe(name).bind("pusher:subscription_succeeded", resolve));
  await Promise.all(["first", "second"].map(subscribed));
  pusher.disconnect();
  other.close();
});
