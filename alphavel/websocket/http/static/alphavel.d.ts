/** Something was refused: by the server, whose codes are numbers, or by this client. */
export class AlphavelError extends Error {
    /**
     * @param {string} message
     * @param {{ code: number | LocalCode, channel?: string, event?: string, cause?: unknown }} about
     */
    constructor(message: string, about: {
        code: number | LocalCode;
        channel?: string;
        event?: string;
        cause?: unknown;
    });
    code: number | LocalCode;
    /** The channel it is about. */
    channel: string | undefined;
    /** The event it is about. */
    event: string | undefined;
}
/**
 * A channel, subscribed to or not: `client.channel(name)` gives the same object for the client's whole life.
 *
 * @template {Record<string, any>} [Events=Record<string, any>]
 */
export class Channel<Events extends Record<string, any> = Record<string, any>> {
    /** @param {Alphavel<any>} client @param {any} subscription */
    constructor(client: Alphavel<any>, subscription: any);
    name: string;
    /** Whether the server has us on it now. */
    get subscribed(): boolean;
    /** Who is on it, in the order they came; empty unless it is a presence channel. */
    get members(): Member[];
    /** Subscribe; see `Alphavel.subscribe`. @param {{ rewind?: number }} [options] */
    subscribe(options?: {
        rewind?: number;
    }): Promise<Member[]>;
    /** Leave; see `Alphavel.unsubscribe`. */
    unsubscribe(): Promise<void>;
    /**
     * Listen to an event of this channel; `*` means all.
     *
     * @template {keyof Events & string} K
     * @param {K} event
     * @param {(data: Events[K], event: WireEvent) => void} listener
     * @returns {Off}
     */
    on<K extends keyof Events & string>(event: K, listener: (data: Events[K], event: WireEvent) => void): Off;
    /**
     * Be told when messages may have been missed: after a lost connection the channel's history no longer reached back. Load the
     * state anew.
     *
     * @param {() => void} listener
     * @returns {Off}
     */
    lost(listener: () => void): Off;
    /** What was said on it; see `Alphavel.history`. @param {{ limit?: number, since?: Position }} [options] */
    history(options?: {
        limit?: number;
        since?: Position;
    }): Promise<History>;
    /** Send to the others on it; see `Alphavel.broadcast`. @param {string} event @param {any} [data] */
    broadcast(event: string, data?: any): Promise<void>;
    /** Send to the others on it if that can be done at once; see `Alphavel.whisper`. @param {string} event @param {any} [data] */
    whisper(event: string, data?: any): boolean;
    #private;
}
/**
 * A channel that knows who is on it.
 *
 * @template {Record<string, any>} [Events=Record<string, any>]
 * @extends {Channel<Events>}
 */
export class PresenceChannel<Events extends Record<string, any> = Record<string, any>> extends Channel<Events> {
    /**
     * Have all members told at every subscription, those made after a lost connection included; at once where there is one.
     *
     * @param {(members: Member[]) => void} listener
     */
    here(listener: (members: Member[]) => void): this;
    /** Be told who comes. @param {(member: Member) => void} listener */
    joining(listener: (member: Member) => void): this;
    /** Be told who goes. @param {(member: Member) => void} listener */
    leaving(listener: (member: Member) => void): this;
}
/**
 * A connection that is made again whenever it is lost, with the channels it is on.
 *
 * @template {Record<string, any>} [Events=Record<string, any>] Data by event name, for TypeScript.
 */
export class Alphavel<Events extends Record<string, any> = Record<string, any>> extends EventTarget {
    /**
     * @param {string | URL} [url] Where the server is: `wss://app.example.com/`, or a path on the page's own host.
     * @param {Options} [options]
     */
    constructor(url?: string | URL, options?: Options);
    /** How it stands; a `statechange` event tells of every change. */
    get state(): State;
    /** The server's name for this connection, for the header `X-Socket-ID`; null where there is none. */
    get socketId(): string | null;
    /** When the next attempt is due, while `waiting`: milliseconds since the epoch. */
    get retryAt(): number | null;
    /**
     * Connect, now if it is waiting; does nothing where it is connected. The first subscription or message does it by itself.
     *
     * @returns {Promise<void>} Settles with the first success, or when the server says to stay away.
     */
    connect(): Promise<void>;
    /** Disconnect for good. What waits is refused; channels are remembered for the next `connect()`. */
    close(): void;
    /**
     * Listen to an event, on whatever channel or on none; `*` means all.
     *
     * @template {keyof Events & string} K
     * @param {K} event
     * @param {(data: Events[K], event: WireEvent) => void} listener
     * @returns {Off}
     */
    on<K extends keyof Events & string>(event: K, listener: (data: Events[K], event: WireEvent) => void): Off;
    /**
     * @template {keyof LifeCycle} K
     * @overload
     * @param {K} type
     * @param {(event: CustomEvent<LifeCycle[K]>) => void} listener
     * @param {boolean | AddEventListenerOptions} [options]
     * @returns {void}
     */
    addEventListener<K extends keyof LifeCycle>(type: K, listener: (event: CustomEvent<LifeCycle[K]>) => void, options?: boolean | AddEventListenerOptions | undefined): void;
    /**
     * @overload
     * @param {string} type
     * @param {EventListenerOrEventListenerObject | null} listener
     * @param {boolean | AddEventListenerOptions} [options]
     * @returns {void}
     */
    addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions | undefined): void;
    /**
     * Return a channel's object, to listen on; it says nothing to the server.
     *
     * @param {string} name
     * @returns {Channel<Events>}
     */
    channel(name: string): Channel<Events>;
    /**
     * Return a presence channel's object.
     *
     * @param {string} name Starts with `presence-`.
     * @returns {PresenceChannel<Events>}
     */
    presence(name: string): PresenceChannel<Events>;
    /**
     * Subscribe to a channel, and again whenever the connection was lost.
     *
     * @param {string} name
     * @param {{ rewind?: number }} [options] `rewind`: so many of the last messages first, where the channel keeps a history.
     * @returns {Promise<Member[]>} Who is there (empty unless it is a presence channel), or an AlphavelError. While there is no
     *   connection it waits for one.
     */
    subscribe(name: string, { rewind }?: {
        rewind?: number;
    }): Promise<Member[]>;
    /**
     * Leave a channel. Its listeners stay, for a later subscription.
     *
     * @param {string} name
     * @returns {Promise<void>} Settles when we are off it.
     */
    unsubscribe(name: string): Promise<void>;
    /**
     * Ask what was said on a channel that keeps a history and that we may join.
     *
     * @param {string} name
     * @param {{ limit?: number, since?: Position }} [options] At most so many messages; `since`: those that came after it.
     * @returns {Promise<History>}
     */
    history(name: string, { limit, since }?: {
        limit?: number;
        since?: Position;
    }): Promise<History>;
    /**
     * Send an event of the application's own to its handler on the server.
     *
     * @param {string} event
     * @param {any} [data]
     * @param {{ channel?: string, queue?: boolean }} [options] `queue: false` refuses rather than waits for a connection.
     * @returns {Promise<void>} Settles when it is handed to the socket, or refused by this client. What the server refuses
     *   comes as an `error` event.
     */
    send(event: string, data?: any, { channel, queue }?: {
        channel?: string;
        queue?: boolean;
    }): Promise<void>;
    /**
     * Send an event to the others on a channel that we are on. Its authorizer on the server decides.
     *
     * @param {string} channel
     * @param {string} event
     * @param {any} [data]
     * @returns {Promise<void>} As of `send`.
     */
    broadcast(channel: string, event: string, data?: any): Promise<void>;
    /**
     * Broadcast what is worth nothing later, such as that somebody types: only if it can be sent at once.
     *
     * @param {string} channel
     * @param {string} event
     * @param {any} [data]
     * @returns {boolean} Whether it was sent.
     */
    whisper(channel: string, event: string, data?: any): boolean;
    /**
     * Give the server a fresh token, so that the connection outlives the old one.
     *
     * @param {Token} [token] None: the `token` of the options is asked.
     * @returns {Promise<Date | null>} When it expires.
     */
    refresh(token?: Token): Promise<Date | null>;
    #private;
}
export type Deferred<T> = {
    promise: Promise<T>;
    resolve: (value: T) => void;
    reject: (error: unknown) => void;
};
/**
 * `waiting`: for the next attempt to connect. `closed`: by `close()`, or the server does not want this client.
 */
export type State = "idle" | "connecting" | "connected" | "waiting" | "closed";
export type Token = string | null | undefined;
export type Member = {
    id: string;
    info: any;
    connected_at?: number;
};
/**
 * An event as it came.
 */
export type WireEvent = {
    event: string;
    channel?: string;
    data?: any;
    [more: string]: any;
};
export type LocalCode = "closed" | "left" | "not-connected" | "one-way" | "queue-full" | "timeout" | "token";
/**
 * A place in a channel's history.
 */
export type Position = {
    epoch: string;
    serial: number;
};
/**
 * What was said on a channel, the oldest first.
 */
export type History = Position & {
    messages: WireEvent[];
    recovered?: boolean;
};
export type Listener = (data: any, event: WireEvent) => void;
/**
 * Takes a listener off again.
 */
export type Off = () => void;
export type Options = {
    /**
     * Who we are. A function is asked anew whenever a connection is
     * made, and before its token expires.
     */
    token?: Token | Promise<Token> | (() => Token | Promise<Token>);
    /**
     * Where it travels; query strings end up in the logs of proxies.
     */
    tokenIn?: "subprotocol" | "query" | undefined;
    /**
     * Class to connect with, where there is no global one: that of the package `ws`.
     */
    WebSocket?: any;
    /**
     * Where events are streamed to who cannot have a WebSocket; null: nowhere.
     */
    eventStream?: string | null | undefined;
    /**
     * Class to listen to them with.
     */
    EventSource?: any;
    /**
     * Have the server send of a message only what has changed since the one before, on channels where it
     * is configured to. Listeners are told whole messages all the same.
     */
    delta?: boolean | undefined;
    /**
     * Bound of the wait after the first failure; it doubles with each further one.
     */
    backoffMs?: number | undefined;
    /**
     * Largest bound of a wait.
     */
    maxBackoffMs?: number | undefined;
    /**
     * Time for a connection to be made, the token's coming included.
     */
    connectTimeoutMs?: number | undefined;
    /**
     * Time for the answer to a subscription.
     */
    answerTimeoutMs?: number | undefined;
    /**
     * Silence of the server after which it is asked whether it is there.
     */
    pingAfterMs?: number | undefined;
    /**
     * Time for it to answer.
     */
    pongTimeoutMs?: number | undefined;
    /**
     * Time before its end at which a token is renewed; at most half of its life.
     */
    refreshBeforeMs?: number | undefined;
    /**
     * Messages kept while there is no connection; more are refused.
     */
    maxQueue?: number | undefined;
    /**
     * Bytes that may wait in the socket; more are refused.
     */
    maxBufferedBytes?: number | undefined;
};
/**
 * Events of the connection by name, with their `detail`.
 */
export type LifeCycle = {
    statechange: {
        state: State;
        previous: State;
    };
    /**
     * A connection, or an attempt, has ended; null:
     * there will be no other.
     */
    close: {
        code: number;
        reason: string;
        retryInMs: number | null;
    };
    /**
     * The server refused something that no promise stands for, or a token could not be had.
     */
    error: AlphavelError;
    /**
     * Hand a fresh token to `refresh()`, unless `token` is a function.
     */
    tokenexpiring: {
        expiresAt: Date;
    };
    /**
     * The server took a fresh token.
     */
    refreshed: {
        expiresAt: Date | null;
    };
};
