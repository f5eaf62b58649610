// ws: a loop over the clients; `prepared`: one frame, made once, written to every socket. node ws.js PORT [prepared]
'use strict'

const { WebSocketServer, WebSocket, Sender } = require('ws')
const { message, obey } = require('./commands')

const port = Number(process.argv[2])
const prepared = process.argv[3] === 'prepared'
const server = new WebSocketServer({ host: '127.0.0.1', port, backlog: 4096 }, () => obey(publish, buffered))
const subscribers = new Set()

server.on('connection', (ws, request) => {
  if (request.url === '/echo') {
    ws.on('message', (data, binary) => ws.send(data, { binary }))
    return
  }
  subscribers.add(ws)
  ws.on('close', () => subscribers.delete(ws))
})

function publish(data) {
  const text = message(data)
  if (prepared) {
    const frame = Buffer.concat(Sender.frame(Buffer.from(text), { fin: true, opcode: 1, mask: false, readOnly: false, rsv1: false }))
    for (const ws of subscribers) ws._socket.write(frame)
    return
  }
  for (const ws of subscribers) if (ws.readyState === WebSocket.OPEN) ws.send(text)
}

function buffered() {
  let most = 0
  for (const ws of subscribers) most = Math.max(most, ws.bufferedAmount)
  return most
}
