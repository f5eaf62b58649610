// uWebSockets: publish to a topic. node uwebsockets.js PORT
'use strict'

const uWS = require('uwebsockets')
const { message, obey } = require('./commands')

const subscribers = new Set()

const app = uWS.App()
  .ws('/echo', { compression: uWS.DISABLED, idleTimeout: 0, message: (ws, data, binary) => ws.send(data, binary) })
  .ws('/*', {
    compression: uWS.DISABLED,
    idleTimeout: 0,
    maxBackpressure: 64 * 1024 * 1024, // beyond it publish() would drop
    open: ws => { ws.subscribe('b'); subscribers.add(ws) },
    close: ws => subscribers.delete(ws),
  })
  .any('/plain', response => response.end('ok'))

function buffered() {
  let most = 0
  for (const ws of subscribers) most = Math.max(most, ws.getBufferedAmount())
  return most
}

app.listen('127.0.0.1', Number(process.argv[2]), listening => {
  if (!listening) process.exit(1)
  obey(data => app.publish('b', message(data)), buffered)
})
