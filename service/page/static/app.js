// The frame around the three views: which one is shown, the token, and how the gateway is.

import { number } from "./dom.js";
import { MapView } from "./map.js";
import { System } from "./system.js";
import { TasksView } from "./tasks.js";
import { TryView } from "./try.js";

const system = new System();
const views = { map: new MapView(system), tasks: new TasksView(system), try: new TryView(system) };
const content = document.querySelector("#content");
const state = document.querySelector("#state");
const token = document.querySelector("#token");
const field = document.querySelector("#token-field");
const button = document.querySelector("#token-button");

function show() {
  const [name, ...rest] = location.hash.slice(1).split(":");
  const view = views[name] ?? views.map;
  for (const link of document.querySelectorAll("header nav:first-of-type a")) {
    const current = views[link.hash.slice(1)] === view;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} · munet gateway`;
  if (content.firstChild !== view.node) content.replaceChildren(view.node);
  view.show(rest.length ? decodeURIComponent(rest.join(":")) : "");
}

function openToken(open, why = "") {
  token.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  document.querySelector("#token-why").textContent = why;
  if (open) field.focus();
}

button.addEventListener("click", () => openToken(token.hidden));
token.addEventListener("submit", (event) => {
  event.preventDefault();
  openToken(false);
  state.textContent = "reading the tasks …";
  system.use(field.value.trim());
});
document.querySelector("#token-forget").addEventListener("click", () => {
  field.value = "";
  openToken(false);
  system.use("");
});
addEventListener("hashchange", () => {
  show();
  content.focus({ preventScroll: true });
});

system.addEventListener("change", () => {
  const tasks = [...system.tasks.values()];
  const failed = tasks.filter((task) => task.state === "failed").length;
  const words = [`${number(tasks.length)} ${tasks.length === 1 ? "task" : "tasks"}`];
  if (failed) words.push(`${number(failed)} failed`);
  if (!system.complete) words.push("reading more …");
  const text = tasks.length || system.complete ? words.join(" · ") : "reading the tasks …";
  if (state.textContent !== text) state.replaceChildren(text);
  state.className = failed ? "state bad" : system.live ? "state live" : "state";
  button.hidden = !system.you.tokens && !system.token;
  document.body.classList.toggle("admin", system.you.admin);
  for (const view of Object.values(views)) if (view.node.isConnected) view.update();
});
system.addEventListener("trouble", ({ detail: error }) => {
  const refused = error.status === 401 || error.status === 403;
  state.className = "state bad";
  state.textContent = refused ? "a token is needed" : `no connection: ${error.message}`;
  if (refused) {
    button.hidden = false;
    openToken(true, error.message);
  }
});

show();
system.start();

