// Making elements. Texts go in as text, never as HTML: what people write cannot become a script.

/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** Make an element: `el("p", { class: "help", dataset: { ref } }, "text", child)`. */
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

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An icon of the page's collection, for the eye alone. */
export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));

const COLOURS = [
  "#a63a12", "#1d6f63", "#2a5bb5", "#6d45b0", "#8a5a08", "#9c2f63", "#3c6b1f", "#31637f", "#84402a", "#4b51b8", "#0f6a86", "#7d3d8f",
];

/** A round picture with a person's initials, in the colour that is always theirs. */
export function avatar(person) {
  return dress(el("span", { class: "avatar", "aria-hidden": "true" }), person);
}

export function dress(element, { id, name }) {
  const sum = [...id].reduce((total, character) => (total * 33 + character.codePointAt(0)) % 99991, 5381);
  element.style.background = COLOURS[sum % COLOURS.length];
  const words = name.split(" ");
  const last = words.length > 1 ? [...words.at(-1)][0] : "";
  element.textContent = ([...words[0]][0] + last).toUpperCase();
  return element;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });

/** A `<time>` element; `at` in seconds since the epoch. */
export function time(at) {
  const date = new Date(at * 1000);
  return el("time", { datetime: date.toISOString() }, clock.format(date));
}
