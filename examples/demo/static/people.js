// Who is online.
import { $, avatar, el, icon } from "./dom.js";

export class People extends EventTarget {
  #channel;
  #me;
  #write;

  /** `write(person)` is called when somebody is to get a private note. */
  constructor(channel, me, write) {
    super();
    this.#channel = channel;
    this.#me = me;
    this.#write = write;
    const draw = () => this.#draw();
    channel.here(draw).joining(draw).leaving(draw);
  }

  #draw() {
    const members = this.#channel.members.map(({ id, info }) => ({ id, name: info.name }));
    members.sort((a, b) => (b.id === this.#me.id) - (a.id === this.#me.id) || a.name.localeCompare(b.name));
    const list = $("people-list");
    const focused = document.activeElement?.dataset.person;
    list.replaceChildren(...members.map((person) => this.#row(person)));
    if (focused) (list.querySelector(`[data-person="${CSS.escape(focused)}"]`) ?? list).focus();
    $("people-count").textContent = members.length;
    this.dispatchEvent(new CustomEvent("change", { detail: members.length }));
  }

  #row(person) {
    const row = el("li", {}, avatar(person), el("span", { class: "name" }, person.name));
    if (person.id === this.#me.id) row.append(el("span", { class: "tag" }, "you"));
    const label = `Send ${person.id === this.#me.id ? "yourself" : person.name} a private note`;
    const write = { class: "icon", type: "button", "aria-label": label, title: label, onclick: () => this.#write(person) };
    row.append(el("button", { ...write, dataset: { person: person.id } }, icon("note")));
    return row;
  }
}
