// The commands of benchmarks/servers/commands.py for servers on Node.js.
'use strict'

const HIGH_WATER = 64 * 1024
let last = 0

function stamp() {
  last += 1
  return `#${String(last).padStart(9, '0')}@${String(process.hrtime.bigint()).padStart(16, '0')}`
}

exports.message = data => `{"event":"m","channel":"b","data":"${data}"}`

const turn = () => new Promise(resolve => setImmediate(resolve))
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

// publish(stamp) sends to all; buffered() is the largest number of bytes that wait for one of them.
exports.obey = function obey(publish, buffered) {
  const commands = {
    async flood(burst, ms) {
      const deadline = performance.now() + ms
      while (performance.now() < deadline) {
        for (let i = 0; i < burst; i++) publish(stamp())
        await turn()
        while (buffered() > HIGH_WATER) await sleep(1)
      }
    },
    async pace(us, count) {
      const start = performance.now()
      for (let i = 0; i < count; i++) {
        const wait = start + i * us / 1000 - performance.now()
        if (wait > 0) await sleep(wait)
        publish(stamp())
      }
    },
  }
  let waiting = Promise.resolve()
  require('readline').createInterface({ input: process.stdin }).on('line', line => {
    const [name, first, second] = line.split(' ')
    waiting = waiting.then(async () => {
      await commands[name](Number(first), Number(second))
      while (buffered() > 0) await sleep(1)
      console.log(JSON.stringify({ published: last }))
    })
  }).on('close', () => process.exit(0))
  console.log(JSON.stringify({ ready: true }))
}
