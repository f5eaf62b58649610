// Clients of two kinds, pusher-js and alphavel.js, on one channel: node deployed_clients.mjs '{"host":"localhost","port":9501,"tls":false,
// "key":"app-key","count":10,"channel":"ticks"}'. Prints a line of JSON whenever something has changed: for each kind, how many are
// connected, their socket ids, and the last tick that all of them have heard.
import Pusher from "pusher-js";
import WebSocket from "ws";
import { Alphavel } from "../../alphavel/websocket/http/static/alphavel.js";

const { host, port, tls, key, count, channel } = JSON.parse(process.argv[2]);

function pusher() {
  const client = new Pusher(key, {
    wsHost: host,
    wsPort: port,
    wssPort: port,
    forceTLS: tls,
    enabledTransports: ["ws", "wss"],
    enableStats: false,
    cluster: "",
  });
  const seen = { heard: -1, connected: () => client.connection.state === "connected", id: () => client.connection.socket_id };
  client.subscribe(channel).bind("tick", ({ n }) => (seen.heard = n));
  return seen;
}

function alphavel() {
  const client = new Alphavel(`${tls ? "wss" : "ws"}://${host}:${port}/`, { WebSocket, backoffMs: 100 });
  const seen = { heard: -1, connected: () => client.state === "connected", id: () => client.socketId };
  client.channel(channel).on("tick", ({ n }) => (seen.heard = n));
  client.connect().catch(() => {});
  client.subscribe(channel).catch(() => {});
  return seen;
}

const kinds = Object.entries({ pusher, alphavel }).map(([name, make]) => [name, Array.from({ length: count }, make)]);
let said = "";

setInterval(() => {
  const now = Object.fromEntries(
    kinds.map(([name, clients]) => {
      const ids = clients.filter((client) => client.connected()).map((client) => client.id());
      return [name, { connected: ids.length, ids, heard: Math.min(...clients.map((client) => client.heard)) }];
    }),
  );
  const line = JSON.stringify(now);
  if (line !== said) console.log((said = line));
}, 100);
