/**
 * alphavel-pusher.js: pusher-js and Laravel Echo miss nothing while they are away, on channels that keep a history on
 * Alphavel's server. With other servers it does no harm.
 *
 *     import { recover } from "/alphavel-pusher.js";
 *
 *     const pusher = recover(new Pusher("app-key", { … }));       // before the first subscription
 *     recover(echo.connector.pusher);                             // the same for Laravel Echo
 *     pusher.subscribe("chat.1").bind("alphavel:lost", () => …);  // the history no longer reached back: load the state anew
 *
 * What was missed comes to the channel's listeners as if it came now, in order, before anything new.
 */

/** @typedef {{ epoch: string, serial: number, socket_id?: string }} Position */

/**
 * Have a client say where it was whenever it subscribes.
 *
 * @template T
 * @param {T} pusher A client of pusher-js.
 * @returns {T} The same.
 */
export function recover(pusher) {
  const client = /** @type {any} */ (pusher);
  const send = client.send_event;
  /** @type {Map<string, Position>} */
  const positions = new Map();
  const followed = new WeakSet();

  client.send_event = (/** @type {string} */ event, /** @type {any} */ data, /** @type {string} */ channel) => {
    if (event === "pusher:subscribe") data = { ...data, recover: positions.get(data.channel) ?? true };
    if (event === "pusher:unsubscribe") positions.delete(data.channel);
    return send.call(client, event, data, channel);
  };

  /** pusher-js hands on what it knows of a message, and the serial is not among it. */
  const follow = () => {
    const transport = client.connection.connection?.transport;
    if (!transport || followed.has(transport)) return;
    followed.add(transport);
    transport.bind("message", (/** @type {{ data: string }} */ { data }) => note(JSON.parse(data)));
  };

  /** @param {{ event: string, channel?: string, data?: any, serial?: number }} message */
  const note = ({ event, channel = "", data, serial }) => {
    const position = positions.get(channel);
    // Of other servers' answers some hold no data, or data that is no text; they know of no positions.
    if (event === "pusher_internal:subscription_succeeded") begin(channel, typeof data === "string" ? JSON.parse(data) : {});
    else if (event === "pusher:subscription_error" && position && data.status === 400) begin(channel, { again: true });
    else if (serial !== undefined && position) position.serial = serial;
  };

  /** @param {string} channel @param {{ epoch?: string, serial?: number, recovered?: boolean, again?: boolean }} answer */
  const begin = (channel, { epoch, serial = 0, recovered, again = false }) => {
    const socket_id = client.connection.socket_id;
    const position = positions.get(channel);
    if (recovered && position) position.socket_id = socket_id;
    else if (epoch) positions.set(channel, { epoch, serial, socket_id });
    else positions.delete(channel);
    // Later: whoever listens hears of the subscription first.
    if (recovered === false || again) setTimeout(() => client.channel(channel)?.emit("alphavel:lost"));
    if (again) setTimeout(() => client.channel(channel)?.subscribe());
  };

  client.connection.bind("connected", follow);
  follow();
  return pusher;
}
