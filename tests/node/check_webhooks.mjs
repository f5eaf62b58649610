// Checks webhooks with the "pusher" package: node check_webhooks.mjs '{"appId":…}' '[{"headers":…,"body":…},…]'
// Prints one line of JSON for each: whether it is valid, its time and its events.
import Pusher from "pusher";

const [options, deliveries] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const pusher = new Pusher(options);

for (const { headers, body } of deliveries) {
  const webhook = pusher.webhook({ headers, rawBody: body });
  const valid = webhook.isValid();
  console.log(JSON.stringify({ valid, ...(valid ? { time: webhook.getTime().getTime(), events: webhook.getEvents() } : {}) }));
}
