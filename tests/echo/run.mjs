// Runs one scenario in Node.js: `node run.mjs NAME KEY URL`; says what happens, one JSON a line.
import { createRequire } from "node:module";
import Echo from "../node/node_modules/laravel-echo/dist/echo.js";
import { recover } from "../../alphavel/websocket/http/static/alphavel-pusher.js";
import { run } from "./scenarios.mjs";

const require = createRequire(new URL("../node/package.json", import.meta.url));
const Pusher = require("pusher-js");

const [name, key, url] = process.argv.slice(2);
await run(name, { Pusher, Echo, recover, key, url, say: (entry) => console.log(JSON.stringify(entry)) });
process.exit(0);
