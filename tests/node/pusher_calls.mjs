// Makes calls of the "pusher" package: node pusher_calls.mjs '{"appId":…}' '[["get",[{"path":"/channels"}]],…]' [SECONDS]
// Prints one line of JSON for each: the status and the body. With SECONDS the clock is so much late.
import Pusher from "pusher";

const [options, calls, late = 0] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const now = Date.now;
Date.now = () => now() - late * 1000;
const pusher = new Pusher(options);

for (const [method, parameters] of calls) {
  try {
    const response = await pusher[method](...parameters);
    console.log(JSON.stringify({ status: response.status, body: await response.json() }));
  } catch (error) {
    console.log(JSON.stringify({ status: error.status ?? null, body: error.body ?? error.message }));
  }
}
