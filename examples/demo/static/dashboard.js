// The dashboard: figures that the server pushes once a second.
import { Chart } from "./chart.js";
import { $, el } from "./dom.js";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const gibibytes = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
const DESCRIBED_EVERY = 15; // seconds: what screen readers may read need not change all the time

const TILES = [
  {
    title: "Processor", unit: "%", colour: "red", top: 100,
    values: ({ cpu }) => [cpu],
    now: ({ cpu }) => number.format(cpu),
    more: ({ load, cores }) => `load ${fine.format(load)} on ${cores} cores`,
  },
  {
    title: "Memory", unit: "%", colour: "green", top: 100,
    values: ({ memory_used: used, memory_total: total }) => [(100 * used) / total],
    now: ({ memory_used: used, memory_total: total }) => number.format((100 * used) / total),
    more: ({ memory_used: used, memory_total: total }) => `${gibibytes(used)} of ${gibibytes(total)}`,
  },
  {
    title: "Connections", unit: "open", colour: "blue", top: null,
    values: ({ connections }) => [connections],
    now: ({ connections }) => number.format(connections),
    more: ({ people }) => (people === 1 ? "one person" : `${number.format(people)} people`),
  },
  {
    title: "Messages", unit: "per second out", colour: "violet", top: null, series: 2,
    values: ({ messages_out: out, messages_in: come }) => [out, come],
    now: ({ messages_out: out }) => number.format(out),
    more: ({ messages_in: come }) => `${number.format(come)} per second in`,
  },
];

/** One figure: its name, how it is now, and its last minute. */
class Tile {
  #spec;
  #chart;
  #now = el("span", { class: "now" }, "–");
  #more = el("span", { class: "more" });
  #scale = el("span", { class: "scale", "aria-hidden": "true" });

  constructor(spec) {
    this.#spec = spec;
    this.#chart = new Chart(spec.series ?? 1, spec.top);
    const value = el("span", {}, this.#now, " ", el("span", { class: "unit" }, spec.unit));
    const head = el("figcaption", {}, el("span", { class: "title" }, spec.title), value, this.#more);
    this.element = el("figure", { class: `tile ${spec.colour}` }, head, el("div", { class: "plot" }, this.#chart.element, this.#scale));
  }

  add(samples) {
    for (const sample of samples) this.#chart.push(this.#spec.values(sample));
    this.#now.textContent = this.#spec.now(samples.at(-1));
    this.#more.textContent = this.#spec.more(samples.at(-1));
  }

  draw(glide, describe) {
    this.#chart.draw(glide);
    this.#scale.textContent = number.format(this.#chart.scale);
    if (describe) this.#chart.describe(`${this.#spec.title}: ${range(this.#chart.values)} ${this.#spec.unit} in the last minute`);
  }
}

export class Dashboard {
  #tiles = TILES.map((spec) => new Tile(spec));
  #newest = 0; // when the newest sample was taken
  #count = 0;

  constructor(channel) {
    $("tiles").replaceChildren(...this.#tiles.map(({ element }) => element));
    channel.on("figures", (sample) => this.#add([sample], true));
  }

  /** Take the samples of the last minute. */
  restore(samples) {
    this.#add(samples, false);
  }

  #add(samples, glide) {
    const fresh = samples.filter(({ at }) => at > this.#newest);
    if (!fresh.length) return;
    const newest = fresh.at(-1);
    this.#newest = newest.at;
    const describe = this.#count++ % DESCRIBED_EVERY === 0;
    for (const tile of this.#tiles) {
      tile.add(fresh);
      tile.draw(glide, describe);
    }
    const facts = { "Server's memory": `${number.format(newest.server_memory / 2 ** 20)} MiB`, "Up for": duration(newest.uptime) };
    $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }
}

const range = (values) => `${number.format(Math.min(...values))} to ${number.format(Math.max(...values))}`;

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const pad = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${hours}:${pad(minutes)}:${pad(seconds % 60)}`;
}
