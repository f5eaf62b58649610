// Signing in, the connection and its state; the rest is in chat.js, people.js, notes.js and dashboard.js.
import { Alphavel } from "/alphavel.js";
import { Chat } from "./chat.js";
import { Dashboard } from "./dashboard.js";
import { $, dress } from "./dom.js";
import { Notes } from "./notes.js";
import { People } from "./people.js";
import { Session } from "./session.js";

const ROOM = "presence-lobby";
const DASHBOARD = "dashboard";
const WORDS = { idle: "Connecting", connecting: "Connecting", connected: "Live", waiting: "Connection lost", closed: "Disconnected" };

let session, client;

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  $("name-error").textContent = "";
  button.disabled = true;
  await enter($("name").value);
  button.disabled = false;
});
$("sign-out").addEventListener("click", () => {
  session.signOut();
  client.close();
  location.reload();
});
$("reconnect").addEventListener("click", () => client.connect());
for (const button of document.querySelectorAll(".tabs button")) {
  button.addEventListener("click", () => show(button.dataset.view));
}

if (Session.rememberedName) await enter(Session.rememberedName);
else $("name").focus();

async function enter(name) {
  const field = $("name");
  try {
    session = await Session.signIn(name);
  } catch (error) {
    $("name-error").textContent = error.message;
    field.setAttribute("aria-invalid", "true");
    field.value = name;
    field.focus();
    return;
  }
  $("welcome").hidden = true;
  $("app").hidden = false;
  $("my-name").textContent = session.person.name;
  dress($("my-avatar"), session.person);
  start();
  $("composer-text").focus({ preventScroll: true });
}

function start() {
  client = new Alphavel("/", { token: session.tokens() });
  const notes = new Notes(client, session);
  const people = new People(client.presence(ROOM), session.person, (person) => notes.write(person));
  const chat = new Chat(client, ROOM, session.person);
  const dashboard = new Dashboard(client.channel(DASHBOARD));
  chat.addEventListener("unread", ({ detail }) => {
    $("chat-badge").textContent = detail || "";
    document.title = detail ? `(${detail}) Alphavel demo` : "Alphavel demo";
  });
  people.addEventListener("change", ({ detail }) => ($("people-badge").textContent = detail));
  client.addEventListener("statechange", showState);
  // Each time we are on the room, for the first time or again: what was said meanwhile is fetched.
  client.channel(ROOM).on("subscribed", async () => {
    const past = await session.past().catch(() => null); // lost again already: the next time tells
    if (!past) return;
    chat.restore(past.messages);
    dashboard.restore(past.samples);
  });
  showState();
  // What goes wrong here is shown as the state of the connection.
  client.subscribe(ROOM).catch(() => {});
  client.subscribe(DASHBOARD).catch(() => {});
}

function show(view) {
  document.querySelector(".views").dataset.view = view;
  for (const button of document.querySelectorAll(".tabs button")) {
    if (button.dataset.view === view) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  dispatchEvent(new CustomEvent("viewchange", { detail: view }));
}

function showState() {
  const { state } = client;
  $("connection").dataset.state = state;
  // Between two attempts nothing is announced anew.
  const lost = state === "connecting" && $("connection-text").textContent === WORDS.waiting;
  if (!lost && $("connection-text").textContent !== WORDS[state]) $("connection-text").textContent = WORDS[state];
  $("reconnect").hidden = state !== "waiting" && state !== "closed";
  countDown();
}

function countDown() {
  const left = client.state === "waiting" ? Math.ceil((client.retryAt - Date.now()) / 1000) : 0;
  $("countdown").textContent = left > 0 ? `trying again in ${left} s` : "";
  if (left > 0) setTimeout(countDown, 250);
}
