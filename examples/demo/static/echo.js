// The lobby through Laravel Echo. The room, its events and its authorizer are those of the other page: see live.py.
import { $ } from "./dom.js";
import { Session } from "./session.js";

const { Echo, Pusher } = window;
const people = new Map();
let room, pusher, lastTyped = 0, quiet;

if (!Echo || !Pusher) {
  $("sign-in").hidden = true;
  $("error").textContent =
    "Laravel Echo and pusher-js are not installed on the server's machine and could not be loaded from cdn.jsdelivr.net. " +
    "Without the internet: have npm install laravel-echo@2.5.0 pusher-js@8.6.0 where the demo was started, then load this page again.";
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("error").textContent = "";
  try {
    enter(await Session.signIn($("name").value));
  } catch (error) {
    $("error").textContent = error.message;
  }
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  // An event of the application's own, for @WebSocket.event("say").
  pusher.send_event("say", { text: $("text").value, ref: crypto.getRandomValues(new Uint32Array(2)).join("-") });
  $("text").value = "";
});

$("text").addEventListener("input", () => {
  if (Date.now() - lastTyped < 2000) return;
  lastTyped = Date.now();
  pusher.send_event("typing", {});
});

// A page that the browser keeps for the way back would stay in the room.
addEventListener("pagehide", () => pusher?.disconnect());
addEventListener("pageshow", ({ persisted }) => persisted && pusher?.connect());

function enter(session) {
  const token = session.tokens();
  const ask = (path) => async (params, callback) => {
    try {
      const answer = await fetch(path, {
        method: "POST",
        headers: { Authorization: `Bearer ${await token()}` },
        body: new URLSearchParams({ socket_id: params.socketId, channel_name: params.channelName ?? "" }),
      });
      callback(answer.ok ? null : new Error(`${path} answered ${answer.status}.`), await answer.json());
    } catch (error) {
      callback(error, null);
    }
  };
  pusher = new Pusher($("script").dataset.key, {
    cluster: "",
    wsHost: location.hostname,
    wsPort: location.port || 80,
    wssPort: location.port || 443,
    forceTLS: location.protocol === "https:",
    enabledTransports: ["ws", "wss"],
    channelAuthorization: { customHandler: ask("/broadcasting/auth") },
    userAuthentication: { customHandler: ask("/broadcasting/user-auth") },
  });
  pusher.connection.bind("state_change", ({ current }) => ($("state").textContent = current));
  pusher.bind("refused", ({ reason }) => ($("error").textContent = reason));
  pusher.signin(); // so that the server knows who says something on this connection
  room = new (Echo.default ?? Echo)({ broadcaster: "pusher", client: pusher }).join("lobby");
  room
    .here((members) => show(() => people.clear(), ...members.map(({ name }) => () => people.set(name, true))))
    .joining(({ name }) => show(() => people.set(name, true), () => write(`${name} came in`)))
    .leaving(({ name }) => show(() => people.delete(name), () => write(`${name} left`)))
    .listen(".message", ({ from, text }) => write(`${from.name}: ${text}`))
    .listen(".typing", ({ from }) => typing(from.name))
    .error(({ status }) => ($("error").textContent = `The lobby cannot be entered: ${status}.`));
  $("sign-in").hidden = true;
  $("room").hidden = false;
  $("text").focus();
}

function show(...changes) {
  for (const change of changes) change();
  $("people").textContent = [...people.keys()].join(", ");
}

function write(text) {
  const line = document.createElement("p");
  line.textContent = text;
  $("log").append(line);
  $("log").scrollTop = $("log").scrollHeight;
  $("typing").textContent = "";
}

function typing(name) {
  clearTimeout(quiet);
  $("typing").textContent = `${name} is typing`;
  quiet = setTimeout(() => ($("typing").textContent = ""), 3000);
}
