// Private notes: written in a dialog, sent over HTTP, received as an event that the server pushes to one user.
import { $, avatar, el, icon, time } from "./dom.js";

const MAX_SHOWN = 4;

export class Notes {
  #session;
  #to = null;

  constructor(client, session) {
    this.#session = session;
    client.on("note", (note) => this.#show(note));
    $("note-cancel").addEventListener("click", () => $("note-dialog").close());
    $("note-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      await this.#send();
    });
  }

  /** Ask for a note to somebody. */
  write(person) {
    this.#to = person;
    $("note-title").textContent = `Private note to ${person.name}`;
    $("note-text").value = "";
    $("note-error").textContent = "";
    $("note-dialog").showModal();
  }

  async #send() {
    try {
      await this.#session.sendNote(this.#to.id, $("note-text").value);
      $("note-dialog").close();
    } catch (error) {
      $("note-error").textContent = error.message;
      $("note-text").focus();
    }
  }

  #show({ from, text, at }) {
    const close = () => card.remove();
    const answer = () => {
      close();
      this.write(from);
    };
    const head = el("p", { class: "head" }, el("strong", {}, from.name), " sent you a note ", time(at));
    const label = `Dismiss the note from ${from.name}`;
    const buttons = el("div", { class: "buttons" }, el("button", { type: "button", onclick: answer }, "Answer"));
    const dismiss = el("button", { class: "icon", type: "button", "aria-label": label, title: "Dismiss", onclick: close }, icon("close"));
    const body = el("div", { class: "body" }, head, el("p", { class: "text" }, text), buttons);
    const card = el("article", { class: "card note" }, avatar(from), body, dismiss);
    card.addEventListener("keydown", (event) => event.key === "Escape" && close());
    $("notes").append(card);
    while ($("notes").childElementCount > MAX_SHOWN) $("notes").firstElementChild.remove();
  }
}
