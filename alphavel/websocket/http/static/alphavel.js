/**
 * alphavel.js: a client of Alphavel's WebSocket server, for browsers and Node. One module, no dependencies.
 *
 *     import { Alphavel } from "/alphavel.js";
 *
 *     const client = new Alphavel("/", { token: () => fetch("/token").then((answer) => answer.text()) });
 *     const room = client.presence("presence-room.1");
 *     room.here((members) => …).joining((member) => …).leaving((member) => …);
 *     room.on("new-message", (data) => …);
 *     await room.subscribe();
 *     await client.send("say", { text: "hi" });
 *
 * What the server sends comes to listeners registered with `on`; what happens to the connection itself is told by DOM
 * events: `statechange`, `close`, `error`, `tokenexpiring`, `refreshed`.
 */

/**
 * @typedef {"idle" | "connecting" | "connected" | "waiting" | "closed"} State
 * `waiting`: for the next attempt to connect. `closed`: by `close()`, or the server does not want this client.
 */
/** @typedef {string | null | undefined} Token */
/** @typedef {{ id: string, info: any, connected_at?: number }} Member */
/** @typedef {{ event: string, channel?: string, data?: any, [more: string]: any }} WireEvent An event as it came. */
/** @typedef {"closed" | "left" | "not-connected" | "one-way" | "queue-full" | "timeout" | "token"} LocalCode */
/** @typedef {{ epoch: string, serial: number }} Position A place in a channel's history. */
/** @typedef {Position & { messages: WireEvent[], recovered?: boolean }} History What was said on a channel, the oldest first. */
/** @typedef {(data: any, event: WireEvent) => void} Listener */
/** @typedef {() => void} Off Takes a listener off again. */

/**
 * @typedef {object} Options
 * @property {Token | Promise<Token> | (() => Token | Promise<Token>)} [token] Who we are. A function is asked anew whenever a connection is
 *   made, and before its token expires.
 * @property {"subprotocol" | "query"} [tokenIn] Where it travels; query strings end up in the logs of proxies.
 * @property {any} [WebSocket] Class to connect with, where there is no global one: that of the package `ws`.
 * @property {string | null} [eventStream] Where events are streamed to who cannot have a WebSocket; null: nowhere.
 * @property {any} [EventSource] Class to listen to them with.
 * @property {boolean} [delta] Have the server send of a message only what has changed since the one before, on channels where it
 *   is configured to. Listeners are told whole messages all the same.
 * @property {number} [backoffMs] Bound of the wait after the first failure; it doubles with each further one.
 * @property {number} [maxBackoffMs] Largest bound of a wait.
 * @property {number} [connectTimeoutMs] Time for a connection to be made, the token's coming included.
 * @property {number} [answerTimeoutMs] Time for the answer to a subscription.
 * @property {number} [pingAfterMs] Silence of the server after which it is asked whether it is there.
 * @property {number} [pongTimeoutMs] Time for it to answer.
 * @property {number} [refreshBeforeMs] Time before its end at which a token is renewed; at most half of its life.
 * @property {number} [maxQueue] Messages kept while there is no connection; more are refused.
 * @property {number} [maxBufferedBytes] Bytes that may wait in the socket; more are refused.
 */

/**
 * @typedef {object} LifeCycle Events of the connection by name, with their `detail`.
 * @property {{ state: State, previous: State }} statechange
 * @property {{ code: number, reason: string, retryInMs: number | null }} close A connection, or an attempt, has ended; null:
 *   there will be no other.
 * @property {AlphavelError} error The server refused something that no promise stands for, or a token could not be had.
 * @property {{ expiresAt: Date }} tokenexpiring Hand a fresh token to `refresh()`, unless `token` is a function.
 * @property {{ expiresAt: Date | null }} refreshed The server took a fresh token.
 */

const DEFAULTS = {
  eventStream: "/sse",
  delta: false,
  backoffMs: 1000,
  maxBackoffMs: 30_000,
  connectTimeoutMs: 10_000,
  answerTimeoutMs: 10_000,
  pingAfterMs: 30_000,
  pongTimeoutMs: 10_000,
  refreshBeforeMs: 30_000,
  maxQueue: 100,
  maxBufferedBytes: 1024 * 1024,
};
const ATTEMPTS = 2; // that fail before the other way to connect is tried
const ONE_WAY = "Events are streamed, because no WebSocket can be had: nothing can be sent.";
const REOPEN = 4290; // the event stream's own: other channels are wanted, connect anew
const LASTING_MS = 5000; // a connection that lasted so long ends a row of failures
const MAX_TIMEOUT_MS = 2 ** 31 - 1; // of setTimeout
const ANSWERS = new Set(["subscribed", "history"]);
const PROTOCOL = new Set(["subscribe", "unsubscribe", "history", "broadcast", "refresh", "ping"]);

/** Something was refused: by the server, whose codes are numbers, or by this client. */
export class AlphavelError extends Error {
  /**
   * @param {string} message
   * @param {{ code: number | LocalCode, channel?: string, event?: string, cause?: unknown }} about
   */
  constructor(message, about) {
    super(message, { cause: about.cause });
    this.name = "AlphavelError";
    this.code = about.code;
    /** The channel it is about. */
    this.channel = about.channel;
    /** The event it is about. */
    this.event = about.event;
  }
}

/** Functions by the name of the event they listen to. */
class Listeners {
  /** @type {Map<string, Set<Listener>>} */
  #byEvent = new Map();

  /** @param {string} event @param {Listener} listener @returns {Off} */
  on(event, listener) {
    const listeners = this.#byEvent.get(event) ?? new Set();
    this.#byEvent.set(event, listeners.add(listener));
    return () => {
      listeners.delete(listener);
    };
  }

  /** @param {WireEvent} event */
  emit(event) {
    for (const name of [event.event, "*"]) {
      for (const listener of [...(this.#byEvent.get(name) ?? [])]) attempt(() => listener(event.data, event));
    }
  }
}

/** What this client knows of a channel. */
class Subscription {
  listeners = new Listeners();
  /** @type {Map<string, Member>} */
  members = new Map();
  /** We want to be on it, and ask again after a lost connection. */
  wanted = false;
  /** This connection has asked for it. */
  asked = false;
  /** The server has us on it. */
  confirmed = false;
  /** @type {Deferred<Member[]> | null} What waits for the answer. */
  joining = null;
  /** @type {Deferred<void> | null} */
  leaving = null;
  /** @type {Deferred<History>[]} What waits for histories, in the order they were asked for. */
  reading = [];
  /** @type {Position | null} What we have seen of a channel that keeps a history. */
  position = null;
  /** @type {string | null} What we were called when we saw it. */
  seenAs = null;
  /** The server did not know our position. */
  lost = false;
  /** @type {number | undefined} How many of the last messages are wanted at first. */
  rewind;
  /** What comes may say only what has changed. */
  follows = false;
  /** @type {any} The data that the next change is one of; nobody else has it. */
  base;

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  get roster() {
    return [...this.members.values()];
  }

  /** The connection is gone. */
  interrupt() {
    this.asked = this.confirmed = this.follows = false;
    this.members.clear();
    this.leaving?.resolve();
    this.leaving = null;
    for (const read of this.reading.splice(0)) read.reject(new AlphavelError("The connection was lost.", { code: "not-connected" }));
  }

  /** What to say when asking for it. */
  get request() {
    const { name, position, seenAs, rewind } = this;
    if (position) return { channel: name, recover: { ...position, socket_id: seenAs ?? undefined } };
    return { channel: name, rewind };
  }

  /** The server has answered: what follows is counted from there, or from where we were. @param {WireEvent} event */
  begin(event) {
    const { epoch, serial, delta, base } = event.data ?? {};
    this.follows = delta === true;
    this.base = base;
    if (this.lost) event.recovered = false;
    this.lost = false;
    if (event.recovered !== true) this.position = epoch === undefined ? null : { epoch, serial };
  }

  /** Make a message whole that says only what has changed. @param {WireEvent} event */
  complete(event) {
    if (!this.follows) return;
    const { delta } = event;
    delete event.delta;
    if (delta === false) return; // not all others have it
    this.base = isObject(delta) ? merge(this.base, delta) : event.data;
    if (this.base !== undefined) event.data = JSON.parse(JSON.stringify(this.base)); // listeners may do with it what they like
  }

  /** Want it no more. @param {unknown} why */
  end(why) {
    this.wanted = this.asked = this.confirmed = this.follows = false;
    this.position = null;
    this.members.clear();
    this.joining?.reject(why);
    this.joining = null;
  }

  /** @param {WireEvent} event */
  emit(event) {
    if (event.event === "member_added") this.members.set(event.data.user.id, event.data.user);
    if (event.event === "member_removed") this.members.delete(event.data.user.id);
    if (this.position && event.serial !== undefined) this.position.serial = event.serial;
    this.listeners.emit(event);
  }
}

/**
 * A channel, subscribed to or not: `client.channel(name)` gives the same object for the client's whole life.
 *
 * @template {Record<string, any>} [Events=Record<string, any>]
 */
export class Channel {
  #client;
  #subscription;

  /** @param {Alphavel<any>} client @param {any} subscription */
  constructor(client, subscription) {
    this.#client = client;
    this.#subscription = /** @type {Subscription} */ (subscription);
    this.name = this.#subscription.name;
  }

  /** Whether the server has us on it now. */
  get subscribed() {
    return this.#subscription.confirmed;
  }

  /** Who is on it, in the order they came; empty unless it is a presence channel. */
  get members() {
    return this.#subscription.roster;
  }

  /** Subscribe; see `Alphavel.subscribe`. @param {{ rewind?: number }} [options] */
  subscribe(options) {
    return this.#client.subscribe(this.name, options);
  }

  /** Leave; see `Alphavel.unsubscribe`. */
  unsubscribe() {
    return this.#client.unsubscribe(this.name);
  }

  /**
   * Listen to an event of this channel; `*` means all.
   *
   * @template {keyof Events & string} K
   * @param {K} event
   * @param {(data: Events[K], event: WireEvent) => void} listener
   * @returns {Off}
   */
  on(event, listener) {
    return this.#subscription.listeners.on(event, listener);
  }

  /**
   * Be told when messages may have been missed: after a lost connection the channel's history no longer reached back. Load the
   * state anew.
   *
   * @param {() => void} listener
   * @returns {Off}
   */
  lost(listener) {
    return this.#subscription.listeners.on("subscribed", (_, event) => {
      if (event.recovered === false) listener();
    });
  }

  /** What was said on it; see `Alphavel.history`. @param {{ limit?: number, since?: Position }} [options] */
  history(options) {
    return this.#client.history(this.name, options);
  }

  /** Send to the others on it; see `Alphavel.broadcast`. @param {string} event @param {any} [data] */
  broadcast(event, data) {
    return this.#client.broadcast(this.name, event, data);
  }

  /** Send to the others on it if that can be done at once; see `Alphavel.whisper`. @param {string} event @param {any} [data] */
  whisper(event, data) {
    return this.#client.whisper(this.name, event, data);
  }
}

/**
 * A channel that knows who is on it.
 *
 * @template {Record<string, any>} [Events=Record<string, any>]
 * @extends {Channel<Events>}
 */
export class PresenceChannel extends Channel {
  /**
   * Have all members told at every subscription, those made after a lost connection included; at once where there is one.
   *
   * @param {(members: Member[]) => void} listener
   */
  here(listener) {
    this.on("subscribed", () => listener(this.members));
    if (this.subscribed) attempt(() => listener(this.members));
    return this;
  }

  /** Be told who comes. @param {(member: Member) => void} listener */
  joining(listener) {
    this.on("member_added", (data) => listener(data.user));
    return this;
  }

  /** Be told who goes. @param {(member: Member) => void} listener */
  leaving(listener) {
    this.on("member_removed", (data) => listener(data.user));
    return this;
  }
}

/**
 * A connection that is made again whenever it is lost, with the channels it is on.
 *
 * @template {Record<string, any>} [Events=Record<string, any>] Data by event name, for TypeScript.
 */
export class Alphavel extends EventTarget {
  #url;
  #options;
  #WebSocket;
  #EventSource;
  /** @type {Options["token"]} */
  #token;
  /** @type {State} */
  #state = "idle";
  /** @type {any} */
  #socket = null;
  /** @type {string | null} */
  #socketId = null;
  /** @type {number | null} */
  #retryAt = null;
  #failures = 0;
  #attempts = 0; // one after the other that failed this way
  #streams = false;
  #probing = false; // events are streamed, and whether a WebSocket can be had is not known yet
  #probed = false;
  #connectedAt = 0;
  #heardAt = 0;
  #serverAheadMs = 0;
  #listeners = new Listeners();
  /** @type {Map<string, { channel: Channel<any>, subscription: Subscription }>} */
  #channels = new Map();
  /** @type {{ text: string, sent: Deferred<void> }[]} */
  #queue = [];
  /** @type {Deferred<void> | null} */
  #connecting = null;
  /** @type {Deferred<Date | null> | null} */
  #refreshing = null;
  #timers = new Timers();

  /**
   * @param {string | URL} [url] Where the server is: `wss://app.example.com/`, or a path on the page's own host.
   * @param {Options} [options]
   */
  constructor(url = "/", options = {}) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    this.#url.hash = "";
    this.#options = { ...DEFAULTS, ...options };
    this.#token = options.token;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    this.#EventSource = options.EventSource ?? globalThis.EventSource;
    if (!this.#WebSocket) throw new TypeError("There is no WebSocket here: pass one, as in { WebSocket } from the package ws.");
  }

  /** How it stands; a `statechange` event tells of every change. */
  get state() {
    return this.#state;
  }

  /** The server's name for this connection, for the header `X-Socket-ID`; null where there is none. */
  get socketId() {
    return this.#socketId;
  }

  /** When the next attempt is due, while `waiting`: milliseconds since the epoch. */
  get retryAt() {
    return this.#retryAt;
  }

  /**
   * Connect, now if it is waiting; does nothing where it is connected. The first subscription or message does it by itself.
   *
   * @returns {Promise<void>} Settles with the first success, or when the server says to stay away.
   */
  connect() {
    if (this.#state === "connected") return Promise.resolve();
    this.#connecting ??= deferred();
    this.#connecting.promise.catch(() => {}); // who does not wait for it learns of it by `close`
    if (this.#state !== "connecting") {
      if (this.#state !== "waiting") this.#watchSurroundings(true);
      this.#open();
    }
    return this.#connecting.promise;
  }

  /** Disconnect for good. What waits is refused; channels are remembered for the next `connect()`. */
  close() {
    const socket = this.#detach();
    this.#end("closed", "The client was closed.");
    socket?.close(1000);
  }

  /**
   * Listen to an event, on whatever channel or on none; `*` means all.
   *
   * @template {keyof Events & string} K
   * @param {K} event
   * @param {(data: Events[K], event: WireEvent) => void} listener
   * @returns {Off}
   */
  on(event, listener) {
    return this.#listeners.on(event, listener);
  }

  /**
   * @template {keyof LifeCycle} K
   * @overload
   * @param {K} type
   * @param {(event: CustomEvent<LifeCycle[K]>) => void} listener
   * @param {boolean | AddEventListenerOptions} [options]
   * @returns {void}
   */
  /**
   * @overload
   * @param {string} type
   * @param {EventListenerOrEventListenerObject | null} listener
   * @param {boolean | AddEventListenerOptions} [options]
   * @returns {void}
   */
  /** Listen to what happens to the connection. @param {string} type @param {any} listener @param {any} [options] */
  addEventListener(type, listener, options) {
    super.addEventListener(type, listener, options);
  }

  /**
   * Return a channel's object, to listen on; it says nothing to the server.
   *
   * @param {string} name
   * @returns {Channel<Events>}
   */
  channel(name) {
    return this.#entry(name).channel;
  }

  /**
   * Return a presence channel's object.
   *
   * @param {string} name Starts with `presence-`.
   * @returns {PresenceChannel<Events>}
   */
  presence(name) {
    const channel = this.channel(name);
    if (channel instanceof PresenceChannel) return channel;
    throw new TypeError(`The name of a presence channel starts with "presence-"; got ${JSON.stringify(name)}.`);
  }

  /**
   * Subscribe to a channel, and again whenever the connection was lost.
   *
   * @param {string} name
   * @param {{ rewind?: number }} [options] `rewind`: so many of the last messages first, where the channel keeps a history.
   * @returns {Promise<Member[]>} Who is there (empty unless it is a presence channel), or an AlphavelError. While there is no
   *   connection it waits for one.
   */
  subscribe(name, { rewind } = {}) {
    const { subscription } = this.#entry(name);
    if (subscription.confirmed) return Promise.resolve(subscription.roster);
    if (subscription.joining) return subscription.joining.promise;
    if (this.#state === "closed") return refuse("closed", "The client is closed.");
    subscription.wanted = true;
    subscription.rewind = rewind;
    subscription.joining = deferred();
    if (this.#state === "connected") this.#ask(subscription);
    else if (this.#state === "idle") this.connect();
    return subscription.joining.promise;
  }

  /**
   * Leave a channel. Its listeners stay, for a later subscription.
   *
   * @param {string} name
   * @returns {Promise<void>} Settles when we are off it.
   */
  unsubscribe(name) {
    const { subscription } = this.#entry(name);
    if (subscription.leaving) return subscription.leaving.promise;
    const { asked } = subscription;
    this.#forget(subscription, new AlphavelError(`Left ${name}.`, { code: "left", channel: name }));
    return asked && this.#state === "connected" ? this.#leave(subscription) : Promise.resolve();
  }

  /**
   * Ask what was said on a channel that keeps a history and that we may join.
   *
   * @param {string} name
   * @param {{ limit?: number, since?: Position }} [options] At most so many messages; `since`: those that came after it.
   * @returns {Promise<History>}
   */
  history(name, { limit, since } = {}) {
    const read = /** @type {Deferred<History>} */ (deferred());
    const { subscription } = this.#entry(name);
    subscription.reading.push(read);
    this.#submit({ event: "history", data: { channel: name, limit, since } }, false).catch((error) => {
      subscription.reading.splice(subscription.reading.indexOf(read), 1);
      read.reject(error);
    });
    return read.promise;
  }

  /**
   * Send an event of the application's own to its handler on the server.
   *
   * @param {string} event
   * @param {any} [data]
   * @param {{ channel?: string, queue?: boolean }} [options] `queue: false` refuses rather than waits for a connection.
   * @returns {Promise<void>} Settles when it is handed to the socket, or refused by this client. What the server refuses
   *   comes as an `error` event.
   */
  send(event, data, { channel, queue = true } = {}) {
    if (PROTOCOL.has(event)) return Promise.reject(new TypeError(`${event} belongs to the protocol; use the method for it.`));
    return this.#submit({ event, channel, data }, queue);
  }

  /**
   * Send an event to the others on a channel that we are on. Its authorizer on the server decides.
   *
   * @param {string} channel
   * @param {string} event
   * @param {any} [data]
   * @returns {Promise<void>} As of `send`.
   */
  broadcast(channel, event, data) {
    return this.#submit({ event: "broadcast", data: { channel, message: { event, data } } }, true);
  }

  /**
   * Broadcast what is worth nothing later, such as that somebody types: only if it can be sent at once.
   *
   * @param {string} channel
   * @param {string} event
   * @param {any} [data]
   * @returns {boolean} Whether it was sent.
   */
  whisper(channel, event, data) {
    const possible = this.#entry(channel).subscription.confirmed && !this.#streams && this.#hasRoom(0);
    if (possible) this.#transmit({ event: "broadcast", data: { channel, message: { event, data } } });
    return possible;
  }

  /**
   * Give the server a fresh token, so that the connection outlives the old one.
   *
   * @param {Token} [token] None: the `token` of the options is asked.
   * @returns {Promise<Date | null>} When it expires.
   */
  async refresh(token) {
    if (token && typeof this.#token !== "function") this.#token = token;
    const fresh = token ?? (await this.#askToken());
    if (this.#state !== "connected") throw new AlphavelError("There is no connection.", { code: "not-connected" });
    this.#refreshing ??= deferred();
    this.#timers.set("refresh answer", this.#options.answerTimeoutMs, () => {
      this.#refused(new AlphavelError("The server did not answer in time.", { code: "timeout" }));
    });
    this.#transmit({ event: "refresh", data: { token: fresh } });
    return this.#refreshing.promise;
  }

  // Connecting

  async #open() {
    this.#setState("connecting");
    this.#retryAt = null;
    this.#timers.clear();
    this.#timers.set("connect", this.#options.connectTimeoutMs, () => this.#drop(1006, "no connection in time"));
    const attempt = (this.#socket = /** @type {any} */ ({ close() {} })); // tells whether this attempt is still the current one
    let token;
    try {
      token = await this.#askToken();
    } catch (cause) {
      if (this.#socket !== attempt) return;
      this.#tell("error", new AlphavelError("A token could not be had.", { code: "token", cause }));
      this.#drop(1006, "no token");
      return;
    }
    if (this.#socket !== attempt) return;
    try {
      this.#use(this.#streams ? this.#makeStream(token) : this.#makeSocket(token), token);
    } catch (cause) {
      this.#detach();
      this.#end("closed", "No connection can be made with this address and token.", cause);
    }
  }

  async #askToken() {
    return typeof this.#token === "function" ? this.#token() : this.#token;
  }

  /** @param {Token} token */
  #makeSocket(token) {
    const url = new URL(this.#url);
    const protocols = ["alphavel.v1"];
    if (this.#options.delta) url.searchParams.set("delta", "true");
    if (token && this.#options.tokenIn === "query") {
      url.searchParams.set("token", token);
    } else if (token) {
      // Checked here because the browser's own error would show the token.
      if (!/^[\w!#$%&'*+\-.^`|~]+$/.test(token)) throw new TypeError("This token cannot be a subprotocol; set tokenIn: query.");
      protocols.push(`bearer.${token}`);
    }
    return new this.#WebSocket(url.href, protocols);
  }

  /** @param {Token} token */
  #makeStream(token) {
    const url = new URL(/** @type {string} */ (this.#options.eventStream), this.#url);
    url.protocol = url.protocol.replace(/^ws/, "http");
    if (token) url.searchParams.set("token", token);
    const wanted = this.#subscriptions().filter((subscription) => subscription.wanted);
    return new EventStream(this.#EventSource, url, wanted);
  }

  /** @param {any} socket @param {Token} token */
  #use(socket, token) {
    this.#socket = socket;
    this.#attempts += 1;
    socket.onmessage = (/** @type {any} */ message) => this.#receive(message.data, token);
    socket.onclose = (/** @type {any} */ close) => this.#drop(close.code, close.reason);
    socket.onerror = () => {}; // a close event follows
  }

  /** @param {WireEvent} event @param {Token} token */
  #connected(event, token) {
    this.#timers.clear("connect");
    this.#attempts = 0;
    this.#socketId = event.socket_id;
    this.#connectedAt = Date.now();
    this.#serverAheadMs = event.timestamp * 1000 - Date.now();
    this.#watchSilence();
    this.#watchExpiry(expiryOf(token));
    for (const subscription of this.#subscriptions()) if (subscription.wanted) this.#ask(subscription);
    this.#probing = this.#streams && !this.#probed;
    this.#probed = this.#streams;
    if (this.#probing) this.#lookForWebSocket(token);
    else this.#sendWaiting();
    this.#connecting?.resolve();
    this.#connecting = null;
    this.#setState("connected");
  }

  /** Send what waited for a connection, or refuse it where nothing can be sent. */
  #sendWaiting() {
    for (const { text, sent } of this.#queue.splice(0)) {
      if (this.#streams) {
        sent.reject(new AlphavelError(ONE_WAY, { code: "one-way" }));
      } else {
        this.#socket.send(text);
        sent.resolve();
      }
    }
  }

  // Losing the connection

  /** The connection, or an attempt to make one, has ended. @param {number} code @param {string} reason */
  #drop(code, reason) {
    const before = this.#state;
    this.#detach()?.close();
    if (before === "connecting" && this.#attempts === ATTEMPTS) this.#tryOtherWay();
    if (before === "connected" && Date.now() - this.#connectedAt >= LASTING_MS) this.#failures = 0;
    const delay = this.#delayAfter(code, before === "connected");
    if (code !== REOPEN) this.#failures += 1;
    if (delay === null) {
      this.#end("closed", `The server does not want this client: ${reason || code}.`);
    } else {
      this.#retryAt = Date.now() + delay;
      this.#timers.set("retry", delay, () => this.#open());
      this.#setState("waiting");
    }
    this.#tell("close", { code, reason, retryInMs: delay });
  }

  /** No connection can be made this way: some proxies let no WebSocket through, and stream events. */
  #tryOtherWay() {
    this.#attempts = 0;
    this.#streams = !this.#streams && Boolean(this.#EventSource) && this.#options.eventStream !== null;
  }

  /**
   * How long to wait: exponential back-off with full jitter, unless the close code asks for something else.
   *
   * @param {number} code
   * @param {boolean} wasConnected
   * @returns {number | null} Milliseconds; null: stay away.
   */
  #delayAfter(code, wasConnected) {
    const bound = Math.min(this.#options.maxBackoffMs, this.#options.backoffMs * 2 ** Math.min(this.#failures, 30));
    const backoff = Math.random() * bound;
    if (code === REOPEN) return 0;
    const expired = code === 4009 && wasConnected && typeof this.#token === "function";
    if (code >= 4000 && code < 4100 && !expired) return null;
    if (code >= 4100 && code < 4200) return Math.max(1000 + Math.random() * 1000, backoff);
    if (code >= 4200 && code < 4300 && this.#failures === 0) return Math.random() * 200;
    return backoff;
  }

  /**
   * An event stream has been opened, so that the server is there: see whether it was just away before. What is to be sent waits
   * for the answer.
   *
   * @param {Token} token
   */
  #lookForWebSocket(token) {
    const probe = this.#makeSocket(token);
    const none = () => {
      if (!this.#probing) return;
      this.#probing = false;
      this.#sendWaiting();
    };
    this.#timers.set("probe", this.#options.connectTimeoutMs, none);
    probe.onerror = () => {}; // so proxies that block them look like
    probe.onclose = none;
    probe.onopen = () => {
      probe.close();
      if (!this.#streams) return;
      this.#streams = false;
      if (this.#state === "connected" || this.#state === "connecting") this.#drop(REOPEN, "a WebSocket can be had");
    };
  }

  /** Let the socket go; nothing it says is heard any more. */
  #detach() {
    const socket = this.#socket;
    this.#socket = null;
    this.#socketId = null;
    this.#timers.clear();
    this.#probing = false;
    if (socket) socket.onmessage = socket.onclose = null;
    for (const subscription of this.#subscriptions()) subscription.interrupt();
    this.#refreshing?.reject(new AlphavelError("The connection was lost.", { code: "not-connected" }));
    this.#refreshing = null;
    return socket;
  }

  /** Give up: refuse all that waits. @param {LocalCode} code @param {string} message @param {unknown} [cause] */
  #end(code, message, cause) {
    const error = new AlphavelError(message, { code, cause });
    this.#watchSurroundings(false);
    this.#failures = 0;
    this.#retryAt = null;
    for (const { sent } of this.#queue.splice(0)) sent.reject(error);
    for (const subscription of this.#subscriptions()) if (subscription.joining) this.#forget(subscription, error);
    this.#connecting?.reject(error);
    this.#connecting = null;
    this.#setState("closed");
  }

  // Receiving

  /** @param {string} text @param {Token} token */
  #receive(text, token) {
    this.#heardAt = Date.now();
    this.#timers.clear("pong");
    /** @type {WireEvent} */
    let event;
    try {
      event = JSON.parse(text);
    } catch (cause) {
      this.#tell("error", new AlphavelError("The server sent something that is no JSON.", { code: 1007, cause }));
      return;
    }
    const subscription = this.#channels.get(String(event.channel))?.subscription;
    if (!ANSWERS.has(event.event)) subscription?.complete(event);
    if (event.event === "connected") this.#connected(event, token);
    else if (event.event === "subscribed" && subscription) this.#subscribed(subscription, event);
    else if (event.event === "unsubscribed" && subscription) this.#unsubscribed(subscription, event);
    else if (event.event === "history") subscription?.reading.shift()?.resolve(event.data);
    else if (event.event === "refreshed") this.#refreshed(event.data.expires_at);
    else if (event.event === "error") this.#error(event, subscription);
    if (subscription?.wanted) subscription.emit(event);
    this.#listeners.emit(event);
  }

  /** @param {string} name */
  #entry(name) {
    let entry = this.#channels.get(name);
    if (!entry) {
      const subscription = new Subscription(name);
      const channel = new (name.startsWith("presence-") ? PresenceChannel : Channel)(this, subscription);
      this.#channels.set(name, (entry = { channel, subscription }));
    }
    return entry;
  }

  #subscriptions() {
    return [...this.#channels.values()].map((entry) => entry.subscription);
  }

  /** @param {Subscription} subscription */
  #ask(subscription) {
    const { name } = subscription;
    subscription.asked = true;
    this.#timers.set(`subscribe ${name}`, this.#options.answerTimeoutMs, () => {
      this.#forget(subscription, new AlphavelError(`No answer about ${name} in time.`, { code: "timeout", channel: name }));
    });
    this.#transmit({ event: "subscribe", data: subscription.request });
  }

  /** @param {Subscription} subscription @returns {Promise<void>} */
  #leave(subscription) {
    subscription.leaving = /** @type {Deferred<void>} */ (deferred());
    this.#transmit({ event: "unsubscribe", data: { channel: subscription.name } });
    return subscription.leaving.promise;
  }

  /** @param {Subscription} subscription @param {WireEvent} event */
  #subscribed(subscription, event) {
    if (!subscription.wanted) {
      if (!subscription.leaving) this.#leave(subscription); // the answer came after we had given up
      return;
    }
    this.#timers.clear(`subscribe ${subscription.name}`);
    subscription.confirmed = true;
    subscription.begin(event);
    subscription.seenAs = this.#socketId;
    subscription.members = new Map((event.data?.members ?? []).map((/** @type {Member} */ member) => [member.id, member]));
    subscription.joining?.resolve(subscription.roster);
    subscription.joining = null;
  }

  /** @param {Subscription} subscription @param {WireEvent} event */
  #unsubscribed(subscription, event) {
    const { leaving, name } = subscription;
    subscription.leaving = null;
    if (leaving) {
      leaving.resolve();
      return;
    }
    const error = new AlphavelError(event.message ?? "The server ended it.", { code: event.code ?? "left", channel: name });
    subscription.emit(event);
    this.#forget(subscription, error);
    this.#tell("error", error);
  }

  /** @param {WireEvent} event @param {Subscription | undefined} subscription */
  #error(event, subscription) {
    const about = { code: event.code, channel: event.channel, event: event.data?.event };
    const error = new AlphavelError(event.message, about);
    if (subscription?.asked && !subscription.confirmed) {
      if (subscription.position && event.code === 4400) {
        subscription.position = null; // it is none of this server's
        subscription.lost = true;
        this.#ask(subscription);
        return;
      }
      const awaited = subscription.joining !== null;
      this.#forget(subscription, error);
      subscription.emit(event);
      if (awaited) return;
    } else if (subscription?.reading.length) {
      subscription.reading.shift()?.reject(error);
      return;
    } else if (this.#refreshing && event.code === 4009 && !event.channel) {
      this.#refused(error);
      return;
    }
    this.#tell("error", error);
  }

  /** Want a channel no more. @param {Subscription} subscription @param {AlphavelError} error */
  #forget(subscription, error) {
    this.#timers.clear(`subscribe ${subscription.name}`);
    subscription.end(error);
  }

  // Sending

  /** @param {WireEvent} event @param {boolean} mayWait @returns {Promise<void>} */
  #submit(event, mayWait) {
    const text = JSON.stringify(event);
    if (this.#state === "connected" && !this.#probing) {
      if (this.#streams) return refuse("one-way", ONE_WAY);
      if (!this.#hasRoom(text.length)) return refuse("queue-full", "The connection does not keep up with what is sent.");
      this.#socket.send(text);
      return Promise.resolve();
    }
    if (!mayWait) return refuse("not-connected", "There is no connection.");
    if (this.#state === "closed") return refuse("closed", "The client is closed.");
    if (this.#queue.length >= this.#options.maxQueue) {
      return refuse("queue-full", `${this.#queue.length} messages wait for a connection already.`);
    }
    const sent = /** @type {Deferred<void>} */ (deferred());
    this.#queue.push({ text, sent });
    if (this.#state === "idle") this.connect();
    return sent.promise;
  }

  /** @param {number} size */
  #hasRoom(size) {
    return this.#socket.bufferedAmount + size <= this.#options.maxBufferedBytes;
  }

  /** @param {WireEvent} event */
  #transmit(event) {
    this.#socket.send(JSON.stringify(event));
  }

  // Keeping it alive

  #watchSilence() {
    const silence = Date.now() - this.#heardAt;
    if (silence >= this.#options.pingAfterMs) this.#ping();
    const left = silence >= this.#options.pingAfterMs ? this.#options.pingAfterMs : this.#options.pingAfterMs - silence;
    this.#timers.set("silence", left, () => this.#watchSilence());
  }

  #ping() {
    if (this.#timers.has("pong")) return;
    this.#timers.set("pong", this.#options.pongTimeoutMs, () => this.#drop(1006, "the server does not answer"));
    this.#transmit({ event: "ping" });
  }

  /** The network may have come or gone, the page may have slept. */
  #wake = () => {
    if (this.#state === "connected") this.#ping();
    else if (this.#state === "waiting" && globalThis.navigator?.onLine !== false) this.#open();
  };

  #whenVisible = () => {
    if (globalThis.document.visibilityState === "visible") this.#wake();
  };

  /** Browsers may keep a page that was left, its socket open, for who goes back: others would think that we are still there. */
  #whenLeft = () => {
    this.#detach()?.close();
    this.#retryAt = null;
    this.#setState("waiting");
  };

  #whenBack = (/** @type {any} */ event) => {
    if (event.persisted) this.#wake();
  };

  /** @param {boolean} watch */
  #watchSurroundings(watch) {
    if (typeof globalThis.document === "undefined") return;
    const change = watch ? "addEventListener" : "removeEventListener";
    globalThis.window[change]("online", this.#wake);
    globalThis.window[change]("offline", this.#wake);
    globalThis.window[change]("pagehide", this.#whenLeft);
    globalThis.window[change]("pageshow", this.#whenBack);
    globalThis.document[change]("visibilitychange", this.#whenVisible);
  }

  // The token's end

  /** @param {number | null} expiresAt Seconds since the epoch, by the server's clock. */
  #watchExpiry(expiresAt) {
    if (expiresAt === null) return;
    const left = expiresAt * 1000 - (Date.now() + this.#serverAheadMs);
    const early = Math.min(this.#options.refreshBeforeMs, left / 2);
    const wait = Math.max(1000, left - early);
    if (wait > MAX_TIMEOUT_MS) {
      this.#timers.set("expiry", MAX_TIMEOUT_MS, () => this.#watchExpiry(expiresAt));
      return;
    }
    this.#timers.set("expiry", wait, () => {
      this.#tell("tokenexpiring", { expiresAt: new Date(expiresAt * 1000) });
      if (typeof this.#token !== "function") return;
      this.refresh().catch((cause) => {
        if (this.#state !== "connected") return;
        this.#tell("error", new AlphavelError("The token could not be renewed.", { code: "token", cause }));
        if (left > 2000) this.#watchExpiry(expiresAt); // half of what is left from now
      });
    });
  }

  /** @param {number | null} expiresAt */
  #refreshed(expiresAt) {
    this.#timers.clear("refresh answer");
    const date = expiresAt === null ? null : new Date(expiresAt * 1000);
    this.#refreshing?.resolve(date);
    this.#refreshing = null;
    this.#watchExpiry(expiresAt);
    this.#tell("refreshed", { expiresAt: date });
  }

  /** The fresh token was not taken. @param {AlphavelError} error */
  #refused(error) {
    this.#timers.clear("refresh answer");
    this.#refreshing?.reject(error);
    this.#refreshing = null;
  }

  // Telling

  /** @param {State} state */
  #setState(state) {
    const previous = this.#state;
    this.#state = state;
    if (state !== previous) this.#tell("statechange", { state, previous });
  }

  /** @template {keyof LifeCycle} K @param {K} type @param {LifeCycle[K]} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * An event stream, to those who use it like a WebSocket. Which channels it has is decided when it is opened; where others are
 * wanted, it ends with `REOPEN`.
 */
class EventStream {
  bufferedAmount = 0;
  /** @type {((message: { data: string }) => void) | null} */
  onmessage = null;
  /** @type {((close: { code: number, reason: string }) => void) | null} */
  onclose = null;
  onerror = null;
  #source;
  #channels; // that it will answer for, once
  /** @type {Set<string>} The server does not know that they were left. */
  #left = new Set();
  #closed = { code: 1006, reason: "" };

  /** @param {any} EventSource @param {URL} url @param {Subscription[]} wanted */
  constructor(EventSource, url, wanted) {
    const requests = wanted.map((subscription) => subscription.request);
    this.#channels = new Set(requests.map((request) => request.channel));
    url.searchParams.set("channels", [...this.#channels].join(","));
    for (const wish of /** @type {const} */ (["recover", "rewind"])) {
      const wishes = requests.filter((request) => request[wish]).map((request) => [request.channel, request[wish]]);
      if (wishes.length) url.searchParams.set(wish, JSON.stringify(Object.fromEntries(wishes)));
    }
    this.#source = new EventSource(url.href);
    this.#source.onmessage = (/** @type {any} */ message) => this.#receive(message);
    this.#source.onerror = () => this.#end(this.#closed.code, this.#closed.reason);
  }

  /** @param {string} text */
  send(text) {
    const { event, data } = JSON.parse(text);
    if (event === "ping") this.#say({ event: "pong" }); // a stream that is broken says so by itself
    else if (event === "unsubscribe") this.#leave(data.channel);
    else if (event === "subscribe" && !this.#channels.delete(data.channel)) this.#end(REOPEN, "other channels are wanted");
    else if (event === "refresh") this.#end(REOPEN, "the token is another one");
  }

  close() {
    this.onmessage = this.onclose = null;
    this.#source?.close();
  }

  /** @param {string} channel */
  #leave(channel) {
    this.#left.add(channel);
    this.#say({ event: "unsubscribed", channel });
  }

  /** @param {{ data: string }} message */
  #receive(message) {
    const event = JSON.parse(message.data);
    if (event.event === "closed") this.#closed = { code: event.code, reason: event.message };
    else if (!this.#left.has(event.channel)) this.onmessage?.(message);
  }

  /** @param {WireEvent} event */
  #say(event) {
    queueMicrotask(() => this.onmessage?.({ data: JSON.stringify(event) }));
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    this.#source?.close(); // it would connect again by itself
    queueMicrotask(() => this.onclose?.({ code, reason }));
  }
}

/** Timers by name: one of each. */
class Timers {
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #running = new Map();

  /** @param {string} name @param {number} ms @param {() => void} action */
  set(name, ms, action) {
    this.clear(name);
    const run = () => {
      this.#running.delete(name);
      action();
    };
    this.#running.set(name, setTimeout(run, ms));
  }

  /** @param {string} name */
  has(name) {
    return this.#running.has(name);
  }

  /** @param {string} [name] None: all. */
  clear(name) {
    for (const each of name === undefined ? [...this.#running.keys()] : [name]) {
      clearTimeout(this.#running.get(each));
      this.#running.delete(each);
    }
  }
}

/**
 * @template T
 * @typedef {{ promise: Promise<T>, resolve: (value: T) => void, reject: (error: unknown) => void }} Deferred
 */

/** @returns {Deferred<any>} */
function deferred() {
  /** @type {any} */
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/** @param {LocalCode} code @param {string} message */
function refuse(code, message) {
  return Promise.reject(new AlphavelError(message, { code }));
}

/** Call a listener; what it throws is reported like any error nobody catches. @param {() => void} call */
function attempt(call) {
  try {
    call();
  } catch (error) {
    if (typeof globalThis.reportError === "function") globalThis.reportError(error);
    else setTimeout(() => { throw error; });
  }
}

/** @param {any} value */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Apply a JSON Merge Patch, RFC 7396. @param {any} target @param {any} patch @returns {any} */
function merge(target, patch) {
  if (!isObject(patch)) return patch;
  const result = isObject(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else result[name] = merge(result[name], value);
  }
  return result;
}

/** When a JSON Web Token expires, in seconds since the epoch; null where that cannot be told. @param {Token} token */
function expiryOf(token) {
  try {
    const { exp } = JSON.parse(atob(String(token).split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return typeof exp === "number" ? exp : null;
  } catch {
    return null; // some other kind of token
  }
}
