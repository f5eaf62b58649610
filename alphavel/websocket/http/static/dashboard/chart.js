// A small chart: the last minutes of one to three series, as SVG.

const WIDTH = 300;
const HEIGHT = 64;
const TOP = 14; // room for the number of the scale's upper end
const POINTS = 150;

/** Make an element: `el("p", { class: "muted" }, "text", child)`. Texts go in as text, never as HTML. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export class Chart {
  /** The element to put into the page. */
  element;
  #series;
  #format;
  #scale = el("span");
  #picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });

  /**
   * @param {string} title What it shows.
   * @param {string[]} names Of the series.
   * @param {(value: number) => string} format Puts a value into words.
   */
  constructor(title, names, format) {
    this.#format = format;
    this.#series = names.map((name, number) => {
      const path = svg("path", { class: `series-${number}` });
      this.#picture.append(path);
      return { name, path, values: [], now: el("strong", {}, "–") };
    });
    const keys = this.#series.map(({ name, now }, number) => el("span", { class: names.length > 1 ? `key-${number}` : "" }, now, ` ${name}`));
    const caption = el("figcaption", {}, el("span", { class: "title" }, title), el("span", { class: "legend" }, ...keys));
    this.#picture.setAttribute("aria-label", title);
    this.element = el("figure", { class: "tile" }, caption, el("div", { class: "plot" }, this.#scale, this.#picture));
  }

  /** Add one value for each series, null where there is none, and draw. */
  push(values) {
    this.#series.forEach((series, number) => {
      series.values.push(values[number]);
      if (series.values.length > POINTS) series.values.shift();
      series.now.textContent = values[number] === null ? "–" : this.#format(values[number]);
    });
    const top = niceTop(Math.max(0, ...this.#series.flatMap(({ values: all }) => all.filter((value) => value !== null))));
    this.#scale.textContent = this.#format(top);
    for (const { path, values: all } of this.#series) path.setAttribute("d", line(all, top));
    const words = this.#series.map(({ name, now }) => `${now.textContent} ${name}`);
    this.#picture.setAttribute("aria-label", words.join(", "));
  }
}

function line(values, top) {
  let path = "";
  let pen = "M";
  values.forEach((value, index) => {
    if (value === null) {
      pen = "M";
      return;
    }
    const x = WIDTH - (values.length - 1 - index) * (WIDTH / (POINTS - 1));
    const y = HEIGHT - 1.5 - (value / top) * (HEIGHT - 1.5 - TOP);
    path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  });
  return path;
}

/** The next of 1, 2, 5, 10, 20, 50 … times a power of ten that is not below a value; 1 for nothing. */
function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= value * 0.999999);
}
