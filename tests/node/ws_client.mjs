// Connects to the address given, subscribes to channels, prints what it receives; ends on the event "end".
import WebSocket from "ws";

const [url, token, ...channels] = process.argv.slice(2);
const protocols = token ? ["alphavel.v1", `bearer.${token}`] : [];
const socket = new WebSocket(url, protocols, { perMessageDeflate: true });

socket.on("open", () => {
  console.log(JSON.stringify({ protocol: socket.protocol, extensions: socket.extensions }));
  for (const channel of channels) {
    socket.send(JSON.stringify({ event: "subscribe", data: { channel } }));
  }
});
socket.on("message", (data, isBinary) => {
  console.log(data.toString());
  if (!isBinary && JSON.parse(data).event === "end") socket.close(1000, "done");
});
socket.on("close", (code, reason) => console.log(JSON.stringify({ closed: code, reason: reason.toString() })));
socket.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
