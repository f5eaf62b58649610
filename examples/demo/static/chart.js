// A small chart: the last minute of one or two series, as SVG. It glides with the time, unless motion is not wanted.
import { svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 80;
const TOP = 18; // room above for the number of the scale's upper end
const SECONDS = 60;
const STEP = WIDTH / (SECONDS - 1);
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Chart {
  /** The element to put into the page. */
  element;
  /** What the upper end stands for. */
  scale = 1;
  #series;
  #top;
  #strip;

  /**
   * @param {number} series How many lines, one or two.
   * @param {number | null} top Upper end of the scale; null: what the values need.
   */
  constructor(series, top = null) {
    this.#top = top;
    this.#series = Array.from({ length: series }, (_, number) => ({
      values: [],
      area: svg("path", { class: `area area-${number}` }),
      line: svg("path", { class: `line line-${number}` }),
    }));
    this.#strip = svg("g", { class: "strip" }, ...this.#series.flatMap(({ area, line }) => [area, line]));
    const grid = [TOP, (TOP + HEIGHT) / 2, HEIGHT - 0.5].map((y) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    const view = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "chart" };
    this.element = svg("svg", view, ...grid, this.#strip);
    this.element.setAttribute("aria-label", "No values yet");
  }

  /** Add the values of one more second, one for each series. */
  push(values) {
    this.#series.forEach((each, number) => {
      each.values.push(values[number]);
      if (each.values.length > SECONDS + 1) each.values.shift();
    });
  }

  /** Draw; `glide`: one second has passed since the last time. */
  draw(glide) {
    const peak = Math.max(...this.#series.flatMap(({ values }) => values), 0);
    this.scale = this.#top ?? niceTop(peak);
    for (const { values, area, line } of this.#series) {
      const points = values.map((value, index) => this.#point(value, index - values.length + 1));
      const path = curve(points);
      line.setAttribute("d", path);
      area.setAttribute("d", points.length ? `${path}L${WIDTH} ${HEIGHT}L${points[0][0]} ${HEIGHT}Z` : "");
    }
    if (glide && !still.matches) this.#glide();
  }

  /** Say in words what it shows, for those who do not see it. */
  describe(text) {
    this.element.setAttribute("aria-label", text);
  }

  /** All values of the first series, oldest first. */
  get values() {
    return this.#series[0].values;
  }

  #point(value, age) {
    return [WIDTH + age * STEP, HEIGHT - 1 - (Math.min(value, this.scale) / this.scale) * (HEIGHT - 1 - TOP)];
  }

  #glide() {
    this.#strip.animate([{ transform: `translateX(${STEP}px)` }, { transform: "none" }], { duration: 1000, easing: "linear" });
  }
}

/** A smooth path through the middles between points: it never goes beyond their values. */
function curve(points) {
  if (!points.length) return "";
  const at = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  const pieces = points.slice(1, -1).map(([x, y], index) => {
    const [nextX, nextY] = points[index + 2];
    return `Q${at(x, y)} ${at((x + nextX) / 2, (y + nextY) / 2)}`;
  });
  return `M${at(...points[0])}${pieces.join("")}L${at(...points.at(-1))}`;
}

/** The next of 2, 5, 10, 20, 50 … that is above a value. */
function niceTop(value) {
  for (let top = 1; ; top *= 10) {
    for (const factor of [2, 5, 10]) if (value <= top * factor) return top * factor;
  }
}
