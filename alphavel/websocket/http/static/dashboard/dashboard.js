// The dashboard: asks for the state every two seconds, and works out rates from totals as Prometheus does.
import { Chart, el } from "./chart.js";

const EVERY_MS = 2000;
const SHOWN_EVENTS = 200;
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

const count = (value) => (value < 10 && value % 1 ? fine.format(value) : number.format(value));
const seconds = (value) => (value < 1 ? `${fine.format(value * 1000)} ms` : `${fine.format(value)} s`);
const percent = (value) => `${fine.format(value * 100)} %`;
function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${fine.format(value)} ${units[unit]}`;
}

/** The metrics of this moment and those of the one before. */
class Figures {
  #now = new Map();
  #before = new Map();
  #elapsed = null;
  #at = null;

  take({ at, metrics }) {
    this.#elapsed = this.#at === null ? null : at - this.#at;
    this.#at = at;
    this.#before = this.#now;
    this.#now = new Map(metrics.map(([name, , samples]) => [name, samples]));
  }

  samples(name) {
    return this.#now.get(`alphavel_websocket_${name}`) ?? [];
  }

  sum(name) {
    return this.samples(name).reduce((total, [, , value]) => total + value, 0);
  }

  max(name) {
    return Math.max(0, ...this.samples(name).map(([, , value]) => value));
  }

  /** How much a total grows in a second, null before the second look. A worker that has just come counts from its next look. */
  rate(name) {
    if (!(this.#elapsed > 0)) return null;
    return this.#growth(name).reduce((total, [, grown]) => total + grown, 0) / this.#elapsed;
  }

  /** A quantile of what was measured since the last look, null where nothing was. */
  quantile(name, quantile) {
    const buckets = new Map();
    for (const [[suffix, labels], grown] of this.#growth(name)) {
      if (suffix !== "_bucket") continue;
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      buckets.set(bound, (buckets.get(bound) ?? 0) + grown);
    }
    const sorted = [...buckets].sort(([a], [b]) => a - b);
    const total = sorted.at(-1)?.[1] ?? 0;
    if (!total) return null;
    let [low, below] = [0, 0];
    for (const [bound, reached] of sorted) {
      if (reached >= quantile * total) {
        if (bound === Infinity) return low;
        return low + (bound - low) * ((quantile * total - below) / (reached - below || 1));
      }
      [low, below] = [bound, reached];
    }
    return low;
  }

  #growth(name) {
    const key = ([suffix, labels]) => suffix + JSON.stringify(labels);
    const before = new Map((this.#before.get(`alphavel_websocket_${name}`) ?? []).map((sample) => [key(sample), sample[2]]));
    return this.samples(name)
      .filter((sample) => before.has(key(sample)))
      .map((sample) => [sample, Math.max(0, sample[2] - before.get(key(sample)))]);
  }
}

const figures = new Figures();
const CHARTS = [
  ["Connections", ["open", "users"], count, () => [figures.sum("connections"), figures.sum("users")]],
  ["Messages a second", ["in", "out"], count, () => [figures.rate("messages_received_total"), figures.rate("messages_sent_total")]],
  ["Bytes a second", ["in", "out"], bytes, () => [figures.rate("received_bytes_total"), figures.rate("sent_bytes_total")]],
  ["From push to write", ["half", "99 %"], seconds, () => [0.5, 0.99].map((part) => figures.quantile("publish_latency_seconds", part))],
  ["Loop lag", ["half", "99 %"], seconds, () => [0.5, 0.99].map((part) => figures.quantile("loop_lag_seconds", part))],
  ["Waiting for slow readers", ["all", "largest"], bytes, () => [figures.sum("outbox_bytes"), figures.max("outbox_largest_bytes")]],
  ["Handshakes a second", ["good", "refused"], count, () => [figures.rate("handshakes_total"), figures.rate("handshake_failures_total")]],
  ["Trouble a second", ["slow readers closed", "errors", "refused credentials"], count, () => ["slow_consumers_total", "handler_errors_total", "auth_failures_total"].map((name) => figures.rate(name))],
  ["Bus a second", ["out", "in", "lost"], count, () => ["bus_published_total", "bus_received_total", "bus_dropped_total"].map((name) => figures.rate(name))],
  ["Handlers of the application", ["at work"], count, () => [figures.sum("handlers_running")]],
  ["Memory", ["of all workers"], bytes, () => [figures.sum("process_resident_memory_bytes")]],
  ["Processor", ["of one core"], percent, () => [figures.rate("process_cpu_seconds_total")]],
].map(([title, names, format, read]) => {
  const chart = new Chart(title, names, format);
  $("charts").append(chart.element);
  return { chart, read };
});

async function ask(path, content) {
  const headers = { "X-Alphavel-Dashboard": "1", "Content-Type": "application/json" };
  const options = content === undefined ? {} : { method: "POST", headers, body: JSON.stringify(content) };
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(15_000) });
  if (!response.ok) throw new Error((await response.text()).trim() || `The server answered ${response.status}.`);
  return response.json();
}

// The state

async function look() {
  if (document.visibilityState === "visible") {
    try {
      show(await ask(`state?${new URLSearchParams({ filter: $("filter").value })}`));
      status("live", "Live");
      if (watched) await showMembers();
    } catch (error) {
      status("lost", `No answer: ${error.message}`);
    }
  }
  setTimeout(look, EVERY_MS);
}

function status(state, text) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").dataset.state = state;
}

function show(state) {
  figures.take(state);
  for (const { chart, read } of CHARTS) chart.push(read());
  showFacts(state);
  showChannels(state);
  showCircuits(state);
}

function showFacts({ at }) {
  const info = figures.samples("info").map(([, labels]) => labels);
  const started = Math.min(...figures.samples("start_time_seconds").map(([, , value]) => value));
  const silent = figures.sum("silent_workers");
  const workers = `${info.length} ${info.length === 1 ? "worker" : "workers"}${silent ? `, and ${silent} that do not answer` : ""}`;
  const draining = figures.sum("draining") ? ", draining" : "";
  $("facts").textContent = `${info[0].version}, ${workers}${draining}, driver ${info[0].driver}, writer ${info[0].writer}, up ${duration(at - started)}`;
}

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

// Rows are kept, so that what has the focus keeps it.
function rows(body, items, key, make, fill) {
  const before = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = items.map((item) => {
    const row = before.get(key(item)) ?? Object.assign(make(item), {});
    row.dataset.key = key(item);
    fill(row, item);
    return row;
  });
  if (wanted.length !== body.children.length || wanted.some((row, index) => row !== body.children[index])) body.replaceChildren(...wanted);
}

function showChannels({ apps, channels, channels_found: found }) {
  if ($("app").children.length !== apps.length) {
    $("app").replaceChildren(...apps.map((app) => el("option", { value: app }, app || "the only app")));
  }
  $("app").hidden = apps.length < 2;
  $("channels-found").textContent = found > channels.length ? `${number.format(channels.length)} of ${number.format(found)}` : number.format(found);
  rows(
    $("channels").tBodies[0],
    channels,
    ({ app, name }) => `${app}\n${name}`,
    ({ app, name }) => el("tr", {}, el("td", {}, el("button", { type: "button", class: "link", onclick: () => watch(app, name) }, name)), el("td"), el("td", { class: "number" })),
    (row, { app, type, subscribers }) => {
      row.cells[1].textContent = apps.length > 1 ? `${type}, ${app}` : type;
      row.cells[2].textContent = number.format(subscribers);
    },
  );
}

// Circuits

const SWITCHES = ["open", "close", "reset", "isolate"];
const SERIOUS = new Set(["open", "isolate"]);

function showCircuits({ circuits, circuits_problem: problem }) {
  $("circuits-section").hidden = circuits === null;
  $("circuits-problem").hidden = problem === null;
  $("circuits-problem").textContent = problem ?? "";
  rows(
    $("circuits").tBodies[0],
    Object.entries(circuits ?? {}).sort(([a], [b]) => a.localeCompare(b)),
    ([service]) => service,
    ([service]) =>
      el("tr", {}, el("th", { scope: "row" }, service), el("td", { class: "state" }), ...[1, 2, 3].map(() => el("td", { class: "number" })), el("td"), el("td", {}, switches(service))),
    (row, [, stats]) => {
      row.cells[1].textContent = stats.state.replaceAll("_", "-");
      row.cells[1].dataset.state = stats.state;
      [stats.total_requests, stats.total_failures, stats.rejected].forEach((value, index) => (row.cells[index + 2].textContent = number.format(value)));
      row.cells[5].textContent = stats.last_failure ?? "";
    },
  );
}

function switches(service) {
  return el("div", { class: "switches" }, ...SWITCHES.map((action) => el("button", { type: "button", "aria-label": `${action} ${service}`, onclick: (event) => turn(event.target, service, action) }, action)));
}

async function turn(button, service, action) {
  if (SERIOUS.has(action) && !button.classList.contains("sure")) {
    button.classList.add("sure");
    button.textContent = "sure?";
    button.calming = setTimeout(() => calm(button, action), 4000);
    return;
  }
  calm(button, action);
  try {
    await ask("circuit", { service, action });
    show(await ask("state"));
  } catch (error) {
    $("circuits-problem").hidden = false;
    $("circuits-problem").textContent = error.message;
  }
}

function calm(button, action) {
  clearTimeout(button.calming); // or it would cut the next question short
  button.classList.remove("sure");
  button.textContent = action;
}

// The console

let watched = null;

function watch(app, channel) {
  watched?.source.close();
  [$("app").value, $("channel").value] = [app, channel];
  $("events").replaceChildren();
  $("watched").textContent = `Watching ${channel} …`;
  const source = new EventSource(`events?${new URLSearchParams({ app, channel })}`);
  watched = { app, channel, source };
  source.onopen = () => ($("watched").textContent = `Watching ${channel}`);
  source.onmessage = ({ data }) => showEvent(JSON.parse(data));
  source.onerror = () => ($("watched").textContent = source.readyState === EventSource.CLOSED ? `${channel} cannot be watched.` : `Watching ${channel}: the connection is lost, trying again …`);
  showMembers().catch(() => {});
}

async function showMembers() {
  const { app, channel } = watched;
  const state = await ask(`channel?${new URLSearchParams({ app, channel })}`);
  if (watched?.channel !== channel) return;
  $("members-box").hidden = state.type !== "presence";
  $("members-found").textContent = number.format(state.members_found);
  const name = ({ id, info }) => (info && typeof info === "object" && typeof info.name === "string" ? `${info.name} (${id})` : id);
  rows($("members"), state.members, ({ id }) => id, () => el("li"), (row, member) => (row.textContent = name(member)));
}

function showEvent({ at, from, event, data, size, excluded, lost }) {
  const details = [new Date(at * 1000).toLocaleTimeString(), `from ${from === "client" ? "a client" : "the server"}`, bytes(size)];
  if (excluded) details.push(`${excluded} left out`);
  if (lost) details.push(`${lost} events before it were too many to show`);
  const shown = data.length < size ? `${data}…` : data;
  const head = el("p", { class: "head" }, el("strong", {}, event), ...details.map((text) => el("span", {}, text)));
  $("events").prepend(el("li", {}, head, el("pre", {}, shown)));
  while ($("events").children.length > SHOWN_EVENTS) $("events").lastChild.remove();
}

$("watch").addEventListener("submit", (event) => {
  event.preventDefault();
  watch($("app").value, $("channel").value);
});

$("send").addEventListener("submit", async (event) => {
  event.preventDefault();
  const told = $("sent");
  try {
    const channel = $("channel").value;
    if (!channel) throw new Error("Name a channel above first.");
    const { queued } = await ask("push", { app: $("app").value, channel, event: $("event").value, data: parsed($("data").value) });
    told.textContent = `Sent; ${number.format(queued)} connections of the worker that took it get it.`;
  } catch (error) {
    told.textContent = error.message;
  }
});

function parsed(text) {
  try {
    return text.trim() ? JSON.parse(text) : null;
  } catch (error) {
    throw new Error(`The data is not JSON: ${error.message}`);
  }
}

look();
