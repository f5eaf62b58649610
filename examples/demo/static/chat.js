// The room: what is said, who types, and what we say.
import { $, avatar, el, time } from "./dom.js";

const TYPING_SHOWN_MS = 3000;
const TYPING_TOLD_EVERY_MS = 2000;
const CONFIRMED_WITHIN_MS = 15_000;
const SAME_BREATH_S = 180;
const MAX_ROWS = 300;

export class Chat extends EventTarget {
  #client;
  #me;
  #log = $("log");
  #text = $("composer-text");
  #seen = new Set(); // ids of messages that are shown
  #waiting = new Map(); // by reference: our messages that the server has not confirmed
  #patience = new Map(); // their timers
  #typing = new Map(); // timers by person who types
  #told = 0;
  #unread = 0;
  #follows = true; // whether the end of the log is to stay in view
  #last = null; // the message shown last: one of the same person soon after needs no new head

  constructor(client, room, me) {
    super();
    this.#client = client;
    this.#me = me;
    const channel = client.presence(room);
    channel.on("message", (message) => this.#receive(message));
    channel.on("typing", ({ from }) => this.#showTyping(from));
    channel.joining(({ info }) => this.#tell(`${info.name} came in`));
    channel.leaving(({ id, info }) => {
      this.#tell(`${info.name} left`);
      this.#stopTyping(id);
    });
    client.on("refused", ({ ref, reason }) => this.#fail(ref, reason));
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#log.addEventListener("scroll", () => (this.#follows = this.#isAtEnd()));
    new ResizeObserver(() => this.#follows && this.#scrollDown()).observe(this.#log);
    this.#text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#submit();
      }
    });
    this.#text.addEventListener("input", () => this.#edited());
    for (const name of ["visibilitychange", "viewchange", "focus"]) {
      (name === "visibilitychange" ? document : window).addEventListener(name, () => this.#read());
    }
  }

  /** Show what was said before we came, or while we were away. */
  restore(messages) {
    this.#log.setAttribute("aria-live", "off"); // screen readers read what is new, not all that was
    setTimeout(() => this.#log.removeAttribute("aria-live"), 1000);
    for (const message of messages) this.#show(message);
    if (!this.#seen.size && !this.#log.querySelector(".message")) this.#tell("It is quiet here. Say something.", "quiet");
    this.#scrollDown();
  }

  // What others do

  #receive(message) {
    this.#stopTyping(message.from.id);
    this.#show(message);
    if (message.from.id !== this.#me.id && !this.#isRead()) this.#countUnread(this.#unread + 1);
  }

  #show(message) {
    if (this.#seen.has(message.id)) return;
    this.#seen.add(message.id);
    const row = this.#waiting.get(message.ref);
    if (row && message.from.id === this.#me.id) {
      this.#waiting.delete(message.ref);
      clearTimeout(this.#patience.get(message.ref));
      this.#patience.delete(message.ref);
      row.classList.remove("waiting", "failed");
      row.querySelector(".fate")?.remove();
      return;
    }
    this.#append(message);
  }

  #append(message) {
    this.#log.querySelector(".quiet")?.remove();
    const own = message.from.id === this.#me.id;
    const goesOn = this.#last?.from.id === message.from.id && message.at - this.#last.at < SAME_BREATH_S;
    const text = el("p", { class: "text" }, message.text);
    const head = el("p", { class: "head" }, el("strong", {}, message.from.name), " ", time(message.at));
    const row = el("article", { class: `message${own ? " own" : ""}${goesOn ? " goes-on" : ""}` }, avatar(message.from));
    row.append(el("div", { class: "bubble" }, head, text));
    this.#last = message;
    this.#log.append(row);
    while (this.#log.childElementCount > MAX_ROWS) this.#log.firstElementChild.remove();
    if (this.#follows || own) this.#scrollDown();
    return row;
  }

  #tell(text, kind = "") {
    this.#last = null;
    if (kind) this.#log.querySelector(`.${kind}`)?.remove();
    this.#log.append(el("p", { class: `news ${kind}` }, text));
    if (this.#follows) this.#scrollDown();
  }

  // What we say

  #submit() {
    const text = this.#text.value.trim();
    if (!text) return;
    this.#text.value = "";
    this.#text.style.height = "";
    this.#told = 0;
    const ref = crypto.randomUUID?.() ?? String(Math.random()); // randomUUID wants https or localhost
    const row = this.#append({ from: this.#me, text, at: Date.now() / 1000, ref });
    row.classList.add("waiting");
    row.querySelector(".bubble").append(el("p", { class: "fate" }, "Sending…"));
    this.#waiting.set(ref, row);
    this.#send(ref, text);
  }

  async #send(ref, text) {
    clearTimeout(this.#patience.get(ref));
    try {
      await this.#client.send("say", { ref, text });
      const giveUp = () => this.#fail(ref, "No answer from the server.");
      this.#patience.set(ref, setTimeout(giveUp, CONFIRMED_WITHIN_MS));
    } catch (error) {
      this.#fail(ref, error.message);
    }
  }

  #fail(ref, reason) {
    const row = this.#waiting.get(ref);
    if (!row) return;
    row.classList.replace("waiting", "failed");
    const again = () => {
      row.classList.replace("failed", "waiting");
      row.querySelector(".fate").replaceChildren("Sending…");
      this.#send(ref, row.querySelector(".text").textContent);
    };
    row.querySelector(".fate").replaceChildren(`Not sent. ${reason} `, el("button", { type: "button", onclick: again }, "Try again"));
  }

  #edited() {
    this.#text.style.height = "";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight + 2, 160)}px`;
    if (!this.#text.value || Date.now() - this.#told < TYPING_TOLD_EVERY_MS) return;
    this.#told = Date.now();
    this.#client.send("typing", null, { queue: false }).catch(() => {}); // nobody needs to know it later
  }

  // Who types

  #showTyping({ id, name }) {
    clearTimeout(this.#typing.get(id)?.timer);
    this.#typing.set(id, { name, timer: setTimeout(() => this.#stopTyping(id), TYPING_SHOWN_MS) });
    this.#drawTyping();
  }

  #stopTyping(id) {
    clearTimeout(this.#typing.get(id)?.timer);
    if (this.#typing.delete(id)) this.#drawTyping();
  }

  #drawTyping() {
    const names = [...this.#typing.values()].map(({ name }) => name);
    const who = names.length > 2 ? "Several people are" : names.length === 2 ? `${names.join(" and ")} are` : `${names[0]} is`;
    const dots = el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i"));
    $("typing").replaceChildren(...(names.length ? [dots, `${who} typing`] : []));
  }

  // What has been read

  #isRead() {
    return document.visibilityState === "visible" && this.#log.checkVisibility();
  }

  #read() {
    if (this.#isRead()) this.#countUnread(0);
  }

  #countUnread(count) {
    this.#unread = count;
    this.dispatchEvent(new CustomEvent("unread", { detail: count }));
  }

  #isAtEnd() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
  }

  #scrollDown() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}
