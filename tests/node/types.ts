// What TypeScript makes of alphavel.d.ts. Compiled by tests/websocket/test_alphavel_js.py, never run.
import { Alphavel, AlphavelError, type Member, type State } from "../../alphavel/websocket/http/static/alphavel.js";

type Events = { "new-message": { text: string }; typing: { on: boolean } };

const client = new Alphavel<Events>("wss://app.example.com/", { token: async () => "a token", maxQueue: 10 });

client.on("new-message", ({ text }) => text.toUpperCase());
client.channel("chat.room.1").on("typing", (data) => data.on === true);
client.presence("presence-room.1").here((members: Member[]) => members.length).joining(({ id }) => id.length);
client.addEventListener("statechange", ({ detail }) => detail.state satisfies State);
client.addEventListener("close", ({ detail }) => detail.retryInMs ?? 0);

const members: Promise<Member[]> = client.subscribe("chat.room.1");
members.catch((error: unknown) => (error instanceof AlphavelError ? error.code : null));
const sent: boolean = client.whisper("chat.room.1", "typing", { on: true });
void sent;

// @ts-expect-error: an event that is not declared
client.on("new-massage", () => {});
// @ts-expect-error: data of another event
client.on("typing", ({ text }) => text);
// @ts-expect-error: a state that does not exist
client.state === "open";
// @ts-expect-error: an option that does not exist
new Alphavel("/", { tokens: "x" });

const untyped = new Alphavel();
untyped.on("anything", (data) => data.at.all);
