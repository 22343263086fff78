// The table of tasks, what can be done with one, and the calls that do it.

import { ago, bytes, copyable, el, halfWidth, ms, number, percent, rate } from "./dom.js";
import { perSecond, quality } from "./system.js";

const PAGE = 50;
const READ_AGAIN_MS = 3000; // a task with a roll-out, whose numbers change
const STATES = ["failed", "loading", "ready", "cold"];
const errors = (task) => (task.lately ? task.lately.failed + task.lately.refused : 0);
const COLUMNS = [
  ["Task", (task) => task.id, (task) => nameOf(task)],
  ["Version", (task) => task.version ?? 0, (task) => versionOf(task), "number"],
  ["Accuracy", (task) => -(quality(task)?.value ?? -1), (task) => accuracyOf(task), "number"],
  ["Requests/s", (task) => -perSecond(task), (task) => rate(perSecond(task)), "number"],
  ["p50 ms", (task) => -(task.lately?.p50_ms ?? -1), (task) => ms(task.lately?.p50_ms), "number"],
  ["p99 ms", (task) => -(task.lately?.p99_ms ?? -1), (task) => ms(task.lately?.p99_ms), "number"],
  ["Errors", (task) => -errors(task), (task) => errors(task) || "–", "number"],
  ["Own", (task) => -(task.bytes?.own ?? 0), (task) => (task.bytes ? bytes(task.bytes.own) : "–"), "number"],
  ["Shared", (task) => -(task.bytes?.shared ?? 0), (task) => (task.bytes ? bytes(task.bytes.shared) : "–"), "number"],
  ["Data", (task) => task.fingerprint ?? "~", (task) => dataOf(task)],
  ["Changed", (task) => -Date.parse(task.created ?? 0), (task) => ago(task.created)],
];

const nameOf = (task) => el("span", { class: "name" },
  el("span", { class: `dot ${task.state}`, "aria-hidden": "true" }), task.id,
  task.state === "ready" ? "" : el("span", { class: `badge ${task.state}` }, task.state),
  task.private ? el("span", { class: "badge" }, "private") : "");

const versionOf = (task) =>
  task.live_version && task.live_version !== task.version ? `${task.version} → ${task.live_version}` : task.version ?? "–";

function accuracyOf(task) {
  const found = quality(task);
  if (found === null) return "–";
  const about = found.count ? ` ± ${(100 * halfWidth(found.value, found.count)).toFixed(1)}` : "";
  return el("span", { title: `${found.split}${found.count ? `, ${number(found.count)} pictures; 95 % interval` : ""}` },
    `${(100 * found.value).toFixed(1)}${about} %`);
}

const dataOf = (task) => task.fingerprint ?
  el("code", { title: task.fingerprint }, task.fingerprint.replace(/^sha256:/, "").slice(0, 8)) : "–";

export class TasksView {
  title = "Tasks";
  #system;
  #order = null; // a column's number; null: what failed comes first
  #down = false;
  #from = 0;
  #open = "";
  #described = null; // of the open task: what GET /tasks/<task> says

  constructor(system) {
    this.#system = system;
    this.search = el("input", { type: "search", placeholder: "Find tasks", "aria-label": "Find tasks",
      oninput: () => { this.#from = 0; this.update(); } });
    this.which = el("select", { "aria-label": "State", onchange: () => { this.#from = 0; this.update(); } },
      el("option", { value: "" }, "all states"), STATES.map((state) => el("option", { value: state }, state)));
    this.count = el("p", { class: "where", role: "status" });
    this.head = el("tr");
    this.body = el("tbody");
    this.pages = el("div", { class: "pages" });
    this.node = el("section", { class: "table", "aria-label": "Tasks" },
      el("div", { class: "bar" }, this.search, this.which, this.count, this.pages),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of tasks" },
        el("table", {}, el("caption", { class: "hidden" }, "Tasks; a row opens the details of its task"),
          el("thead", {}, this.head), this.body)));
  }

  show(id) {
    if (id) {
      this.search.value = id;
      this.#toggle(id, true);
    }
    this.update();
  }

  update() {
    const text = this.search.value.trim().toLowerCase(), state = this.which.value;
    const found = [...this.#system.tasks.values()].filter((task) =>
      task.id.toLowerCase().includes(text) && (!state || task.state === state));
    found.sort((one, other) => this.#compare(one, other));
    this.#from = Math.min(this.#from, Math.max(0, Math.floor((found.length - 1) / PAGE) * PAGE));
    const shown = found.slice(this.#from, this.#from + PAGE);
    this.count.textContent = found.length === 0 ? "no tasks" :
      found.length <= PAGE ? `${number(found.length)} ${found.length === 1 ? "task" : "tasks"}` :
      `${number(this.#from + 1)}–${number(this.#from + shown.length)} of ${number(found.length)} tasks`;
    this.#drawHead();
    this.#drawPages(found.length);
    const selection = getSelection();
    if (!selection.isCollapsed && this.body.contains(selection.anchorNode)) return; // somebody copies a text
    const active = this.body.contains(document.activeElement) ? document.activeElement : null;
    const task = active?.closest("[data-task]")?.dataset.task, inDetails = active?.closest(".more") !== null;
    this.body.replaceChildren(...shown.flatMap((task) => this.#rows(task)));
    if (active === null || task === undefined) return;
    const name = `[data-task="${CSS.escape(task)}"]`, opener = this.body.querySelector(`${name} button`);
    const controls = inDetails ? [...this.body.querySelectorAll(`${name}.more :is(a, button)`)] : [];
    const same = controls.find((one) => one.textContent === active.textContent);
    (same ?? opener)?.focus({ preventScroll: true });
  }

  #compare(one, other) {
    const failed = STATES.indexOf(one.state === "failed" ? "failed" : "ready") - STATES.indexOf(other.state === "failed" ? "failed" : "ready");
    if (this.#order === null) return failed || perSecond(other) - perSecond(one) || (one.id < other.id ? -1 : 1);
    const key = COLUMNS[this.#order][1], [a, b] = [key(one), key(other)];
    const order = a < b ? -1 : a > b ? 1 : one.id < other.id ? -1 : 1;
    return this.#down ? -order : order;
  }

  #drawHead() {
    const focused = this.head.contains(document.activeElement) ? document.activeElement.textContent : null;
    this.head.replaceChildren(...COLUMNS.map(([title, , , kind], place) => {
      const sorted = this.#order === place;
      return el("th", { scope: "col", class: kind, "aria-sort": sorted ? (this.#down ? "descending" : "ascending") : undefined },
        el("button", { type: "button", onclick: () => {
          this.#down = sorted && !this.#down;
          this.#order = place;
          this.update();
        } }, title));
    }));
    if (focused !== null) [...this.head.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
  }

  #drawPages(count) {
    const go = (from, text, name) => el("button", { type: "button", class: "plain", "aria-label": name,
      disabled: from < 0 || from >= count, onclick: () => { this.#from = from; this.update(); } }, text);
    this.pages.replaceChildren(...(count > PAGE ? [go(this.#from - PAGE, "‹", "Page before"), go(this.#from + PAGE, "›", "Next page")] : []));
  }

  #rows(task) {
    const open = this.#open === task.id;
    const cells = COLUMNS.map(([title, , show, kind], place) => el(place ? "td" : "th", {
      class: kind, scope: place ? undefined : "row", "data-title": title },
      place ? show(task) : el("button", { type: "button", class: "open", "aria-expanded": String(open),
        onclick: () => this.#toggle(task.id, !open) }, show(task))));
    const row = el("tr", { class: task.state, "data-task": task.id }, cells);
    return open ? [row, el("tr", { class: "more", "data-task": task.id },
      el("td", { colspan: COLUMNS.length }, this.#details(task)))] : [row];
  }

  async #toggle(id, open) {
    this.#open = open ? id : "";
    this.#described = null;
    this.update();
    if (open) await this.#read(id);
  }

  async #read(id) {
    let found;
    try {
      found = await (await this.#system.ask(`/tasks/${id}`)).json();
    } catch (error) {
      found = { error: error.message };
    }
    if (this.#open !== id) return;
    this.#described = found;
    this.update();
    clearTimeout(this.again);
    if (found.rollouts && this.node.isConnected) this.again = setTimeout(() => this.#read(id), READ_AGAIN_MS);
  }

  #details(task) {
    const more = this.#described, admin = this.#system.you.admin;
    const versions = more?.versions ?? [];
    const act = (title, method, path, text) => el("button", { type: "button",
      onclick: () => this.#ask(title, text, method, path) }, title);
    return el("div", { class: "task" },
      task.reason ? el("p", { class: "reason" }, task.reason) : "",
      el("p", { class: "actions" },
        el("a", { href: `#try:${encodeURIComponent(task.id)}` }, "Try it"),
        el("a", { href: `#map:${encodeURIComponent(task.id)}` }, "On the map"),
        admin && task.state !== "ready" ? act("Load", "POST", `/v2/repository/models/${task.id}/load`,
          `Load ${task.id} into memory now?`) : "",
        admin && task.state === "ready" ? act("Unload", "POST", `/v2/repository/models/${task.id}/unload`,
          `Unload ${task.id}? Its next request loads it again.`) : ""),
      more?.error ? el("p", { class: "reason" }, more.error) : more === null ? el("p", { class: "hint" }, "reading …") :
      el("div", { class: "versions" },
        el("h2", {}, "Versions"),
        el("ul", {}, versions.map((one) => el("li", {}, el("b", {}, `v${one.version}`),
          one.names.map((name) => el("span", { class: "badge" }, name)),
          el("span", { class: "hint" }, ago(one.created)),
          el("code", {}, one.digest.slice(7, 19)))),
        more.older_versions ? el("li", { class: "hint" }, `and ${number(more.older_versions)} older`) : ""),
        more.rollouts ? rollouts(more.rollouts, versions) : "",
        admin ? commands(task, versions, more.rollouts ?? {}) : ""));
  }

  #ask(title, text, method, path) {
    const dialog = document.querySelector("#ask");
    const result = el("p", { role: "status" });
    const close = el("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Cancel");
    const yes = el("button", { type: "button", onclick: async () => {
      yes.disabled = true;
      result.textContent = "asking the gateway …";
      try {
        await this.#system.ask(path, { method });
        dialog.close();
      } catch (error) {
        result.textContent = error.message;
        yes.disabled = false;
      }
    } }, title);
    dialog.replaceChildren(el("h2", { id: "ask-title" }, text), el("p", { class: "hint" }, "The call is logged with the token's name."),
      result, el("p", { class: "actions" }, yes, close));
    dialog.showModal();
  }
}

const ROLLOUT = [
  ["Roll-out", ([alias, , version]) => `${alias}${version ? `, v${version}` : ""}`],
  ["Gets", ([, one]) => [one.weight ? `${percent(one.weight)} of the requests` : "", one.shadow ? "a copy of the rest" : ""].filter(Boolean).join(", ")],
  ["Answered", ([, one]) => counts(one.here, (found) => found.answered ?? 0)],
  ["Failed", ([, one]) => counts(one.here, (found) => (found.failed ?? 0) + (found.non_finite ?? 0))],
  ["Mean ms", ([, one]) => roles(one.here?.mean_ms, ms)],
  ["Same answer", ([, one]) => (one.here?.compared ? `${percent(one.here.agree / one.here.compared)} of ${number(one.here.compared)}` : "–")],
  ["Right", ([, one]) => roles(one.here?.labelled && Object.fromEntries(Object.entries(one.here.labelled).map(([role, of]) => [role, `${percent(one.here.right[role] / of)} of ${number(of)}`])), (text) => text)],
  ["State", ([, one]) => one.ended || one.here?.stopped || (one.here ? "under way" : "not begun here")],
];
const roles = (found, show) => Object.entries(found ?? {}).map(([role, value]) => `${role} ${show(value)}`).join(", ") || "–";
const counts = (here, count) => roles(Object.fromEntries(Object.entries(here?.requests ?? {}).map(([role, found]) => [role, count(found)])), number);

// What this gateway counted since a roll-out began, next to the live version.
function rollouts(found, versions) {
  const rows = Object.entries(found).map(([alias, one]) =>
    [alias, one, versions.find((version) => version.names.includes(alias))?.version]);
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Roll-outs" }, el("table", {},
    el("thead", {}, el("tr", {}, ROLLOUT.map(([title]) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, ROLLOUT.map(([title, show], place) =>
      el(place ? "td" : "th", { scope: place ? undefined : "row", "data-title": title }, show(row))))))));
  return [table, el("p", { class: "hint" }, "Counted by this gateway since it began. Of a copy only the engine's time counts.")];
}

// What changes the store is done where the store can be written: the gateway only reads it.
function commands(task, versions, rollouts) {
  const before = versions.find((one) => one.version < task.version)?.version;
  const quoted = `'${task.id}'`;
  return el("div", { class: "commands" },
    before ? copyable(`munet store rollback ${quoted} ${before}`, "Roll back, where the store can be written") : "",
    copyable(`munet store alias ${quoted} stable ${task.version}`, "Set an alias, where the store can be written"),
    Object.entries(rollouts).filter(([, one]) => !one.ended).map(([alias]) =>
      copyable(`munet store promote ${quoted} ${alias}`, `Make the version of ${alias} live, where the store can be written`)));
}
