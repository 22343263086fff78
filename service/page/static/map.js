// The map: every task as a line through the components of its path.

import { ago, bytes, el, ms, number, percent, rate, svg } from "./dom.js";
import { labelOf, layout } from "./layout.js";
import { isFresh, perSecond, quality } from "./system.js";

const TOP = 58, RIGHT = 84, ROWS = 44, KINDS = 6;

export class MapView {
  title = "Map";
  #system;
  #zoomed = []; // of sets of names, each within the one before
  #search = "";
  #focus = null; // key of the row or cell that has the keyboard
  #shown = null; // what the details are about: {task} or {digests, column}
  #kinds = new Map(); // who shares -> number of its colour

  constructor(system) {
    this.#system = system;
    this.search = el("input", { type: "search", placeholder: "Find tasks", "aria-label": "Find tasks",
      oninput: () => { this.#search = this.search.value.trim().toLowerCase(); this.update(); } });
    this.back = el("button", { type: "button", class: "plain",
      onclick: () => { this.#zoomed.pop(); this.update(); } }, "‹ Back");
    this.where = el("p", { class: "where", role: "status" });
    this.drawing = el("div", { class: "drawing" });
    this.details = el("aside", { class: "details", "aria-label": "Details", "aria-live": "polite" });
    this.node = el("section", { class: "map", "aria-label": "Map of the system" },
      el("div", { class: "bar" }, this.search, this.back, this.where, legend()),
      el("div", { class: "split" }, this.drawing, this.details));
    new ResizeObserver(() => this.update()).observe(this.drawing);
  }

  show(id) {
    if (id) this.#shown = { task: id };
    this.update();
  }

  update() {
    if (!this.node.isConnected || !this.drawing.clientWidth) return;
    const all = [...this.#system.tasks.values()];
    const inside = this.#zoomed.at(-1);
    const zoomed = inside ? all.filter((task) => inside.has(task.id)) : all;
    const tasks = zoomed.filter((task) => task.id.toLowerCase().includes(this.#search));
    this.back.hidden = !this.#zoomed.length;
    this.where.textContent = tasks.length === all.length ? "" :
      `${number(tasks.length)} of ${number(all.length)} tasks`;
    if (tasks.length === 0) {
      const empty = all.length ? "No task has this name." : this.#system.complete ?
        "The store has no tasks yet. Publish one, and it appears here." : "";
      this.drawing.replaceChildren(el("p", { class: "empty" }, empty));
      this.details.replaceChildren();
      return;
    }
    this.#draw(tasks);
    this.#tell();
  }

  #draw(tasks) {
    const { components } = this.#system;
    const width = Math.max(320, this.drawing.clientWidth);
    const left = Math.min(210, Math.max(96, width * 0.22));
    const right = width < 560 ? 52 : RIGHT;
    const found = layout(tasks, {
      width: width - left - right, height: Math.max(260, innerHeight - 300), budget: ROWS,
      users: (digest) => components.get(digest)?.tasks.length ?? 0,
      weight: (task) => (task.state === "failed" ? 1e9 : 0) + (isFresh(task) ? 1e8 : 0) +
        perSecond(task) + (this.#shown?.task === task.id ? 1e7 : 0),
    });
    this.#kinds.clear();
    const hottest = Math.max(1, ...[...components.values()].map((one) => one.heat));
    const height = TOP + found.height + 12;
    const lit = this.#lit();
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class:
      lit ? "paths lit" : "paths", role: "group", "aria-label":
      `${tasks.length} tasks and the components of their paths; arrow keys move` });
    const cells = svg("g", { transform: `translate(${left} ${TOP})` });
    const lines = svg("g", { transform: `translate(${left} ${TOP})`, "aria-hidden": "true" });
    const names = svg("g", {});
    for (const cell of found.cells) cells.append(this.#cell(cell, components, hottest, tasks.length, lit));
    for (const row of found.rows) {
      lines.append(...this.#line(row, found.columns, hottest, lit));
      names.append(this.#row(row, left, width, right, lit));
    }
    picture.append(heads(found.columns, left), cells, lines, names, ...this.#lineage(found.rows, left));
    picture.addEventListener("keydown", (event) => this.#move(event, found, picture));
    const focused = this.drawing.contains(document.activeElement);
    this.drawing.replaceChildren(picture);
    const nodes = [...picture.querySelectorAll("[data-key]")];
    const current = nodes.find((one) => one.dataset.key === this.#focus) ??
      nodes.find((one) => one.dataset.key.startsWith("row:"));
    for (const node of nodes) node.setAttribute("tabindex", node === current ? "0" : "-1");
    if (focused) current?.focus({ preventScroll: true });
  }

  // The components, and the tasks of the lineage, that the details are about; null if none.
  #lit() {
    if (!this.#shown) return null;
    const task = this.#system.tasks.get(this.#shown.task);
    if (task) return { digests: new Set(task.path.map((part) => part[1])), tasks: new Set([task.id]) };
    if (!this.#shown.digests) return null;
    const users = [...this.#shown.digests].flatMap((one) => this.#system.components.get(one)?.tasks ?? []);
    return { digests: this.#shown.digests, tasks: new Set(users) };
  }

  #cell(cell, components, hottest, all, lit) {
    const known = [...cell.digests].map((one) => components.get(one)).filter(Boolean);
    const most = Math.max(0, ...known.map((one) => one.tasks.length));
    const heat = known.reduce((sum, one) => sum + one.heat, 0);
    const resident = known.some((one) => one.resident), loading = known.some((one) => one.loading);
    const state = resident ? "in memory" : loading ? "loading" : "not in memory";
    const who = cell.digest === undefined ? `${number(cell.digests.size)} components, one a task`
      : most === 1 ? "one task alone" : `shared by ${number(most)} tasks`;
    const kind = most <= 1 ? "own" : most >= this.#system.known ? "all" :
      `some k${this.#kind(known[0]?.tasks ?? [])}`;
    const on = !lit || [...cell.digests].some((one) => lit.digests.has(one));
    const pad = cell.height > 12 ? 2 : 0.5;
    const box = { x: cell.column.x, y: cell.y + pad, width: cell.width, height: cell.height - 2 * pad, rx: 3 };
    const node = svg("g", { class: `cell ${kind} ${resident ? "" : "absent"} ${on ? "" : "dim"}`, role: "button",
      "data-key": `cell:${cell.column.name}:${cell.rows[0].line.task.id}`,
      "aria-label": `${cell.column.label}: ${bytes(cell.bytes)}, ${who}, ${state}` },
      svg("rect", { ...box, class: loading && !resident ? "box loading" : "box" }));
    if (cell.digest === undefined && cell.height > 14) {
      node.append(svg("rect", { ...box, x: box.x + 2, class: "stack" }));
    }
    if (heat > 0) {
      const part = Math.log1p(heat * 9) / Math.log1p(hottest * 9);
      const bar = Math.min(5, box.height / 3);
      node.append(svg("rect", { x: box.x, y: box.y + box.height - bar, width: Math.max(3, box.width * part),
        height: bar, rx: bar / 2, class: "heat" }));
    }
    const pick = () => this.#pick({ digests: cell.digests, column: cell.column, cell });
    this.#wire(node, pick, pick);
    return node;
  }

  // A colour for each group that shares: equal groups have equal colours.
  #kind(tasks) {
    const key = `${tasks.length}:${tasks[0]}:${tasks.at(-1)}`;
    if (!this.#kinds.has(key)) this.#kinds.set(key, this.#kinds.size % KINDS);
    return this.#kinds.get(key);
  }

  #line(row, columns, hottest, lit) {
    const last = columns.at(-1);
    const end = last ? last.x + last.width + 4 : 0;
    const heat = row.tasks.reduce((sum, task) => sum + perSecond(task), 0);
    const on = !lit || row.tasks.some((task) => lit.tasks.has(task.id));
    const strands = row.isGroup ? Math.min(7, 2 + Math.floor(Math.log2(row.tasks.length) / 2)) : 1;
    const step = Math.min(4, row.height / (strands + 2));
    return Array.from({ length: strands }, (_, i) => {
      const y = row.y + row.height / 2 + (i - (strands - 1) / 2) * step;
      const thick = heat > 0 ? 1.6 + 2.4 * Math.log1p(heat * 9) / Math.log1p(hottest * 9) : 1.2;
      return svg("path", { d: `M-6 ${y}H${end}`, class: `line ${heat > 0 ? "hot" : ""} ${on ? "" : "dim"} ${
        row.tasks.some(isFresh) ? "fresh" : ""}`, "stroke-width": (row.isGroup ? 1 : thick).toFixed(2) });
    });
  }

  #row(row, left, width, right, lit) {
    const { task, sub } = row.line;
    const y = TOP + row.y, middle = y + row.height / 2;
    const heat = row.tasks.reduce((sum, one) => sum + perSecond(one), 0);
    const failed = row.tasks.filter((one) => one.state === "failed").length;
    const name = row.isGroup ? `${number(row.tasks.length)} tasks` : sub ? `${task.id} ▸ ${sub}` : task.id;
    const on = !lit || row.tasks.some((one) => lit.tasks.has(one.id));
    const state = row.isGroup ? (failed ? `${failed} failed` : "") : task.state;
    const most = Math.floor((left - 26) / 7);
    const node = svg("g", { class: `row ${on ? "" : "dim"} ${row.isGroup ? "group" : ""} ${
      row.tasks.some(isFresh) ? "fresh" : ""}`, role: "button", "data-key": `row:${task.id}:${sub}:${row.tasks.length}`,
      "aria-label": `${name}, ${state ? `${state}, ` : ""}${rate(heat)} requests a second${
        row.isGroup ? `, such as ${task.id}; opens` : ""}` },
      svg("rect", { x: 0, y, width: left - 8, height: row.height, class: "hit" }),
      svg("circle", { cx: 9, cy: middle, r: 3.5, class: `dot ${failed ? "failed" : row.isGroup ? "" : task.state}` }),
      svg("text", { x: 20, y: middle + (row.isGroup ? -1 : 4) }, row.isGroup ? `▸ ${name}` : shortened(name, most)));
    if (row.isGroup) node.append(svg("text", { x: 20, y: middle + 13, class: "small" },
      shortened(`${task.id} …`, most)));
    if (heat > 0) node.append(svg("text", { x: width - right + 14, y: middle + 4, class: "rate" }, `${rate(heat)}/s`));
    node.append(svg("title", {}, row.isGroup ? `${name}, such as ${task.id}` : name));
    const pick = () => {
      if (!row.isGroup) return this.#pick({ task: task.id });
      this.#zoomed.push(new Set(row.tasks.map((one) => one.id)));
      this.#shown = null;
      this.update();
    };
    this.#wire(node, pick, row.isGroup ? null : pick);
    return node;
  }

  #wire(node, pick, hover) {
    node.addEventListener("click", pick);
    node.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      pick();
    });
    node.addEventListener("focus", () => (this.#focus = node.dataset.key));
    if (hover !== null) node.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") hover();
    });
  }

  #pick(what) {
    const same = what.task ? this.#shown?.task === what.task : this.#shown?.digests === what.digests;
    this.#shown = what;
    if (!same) this.#relight();
    this.#tell();
  }

  // Only classes change: a redrawing would take the pointer's target away.
  #relight() {
    const lit = this.#lit();
    this.drawing.querySelector("svg")?.classList.toggle("lit", lit !== null);
    clearTimeout(this.redraw);
    this.redraw = setTimeout(() => this.update(), 60);
  }

  #lineage(rows, left) {
    const places = new Map(rows.filter((row) => !row.isGroup).map((row) => [row.line.task.id, row]));
    const found = [];
    let task = this.#system.tasks.get(this.#shown?.task);
    for (let steps = 0; task?.parent && steps < 20; steps++) {
      const [from, to] = [places.get(task.parent), places.get(task.id)];
      if (from && to) {
        const [y1, y2] = [from, to].map((row) => TOP + row.y + row.height / 2);
        const bend = Math.min(20, 6 + Math.abs(y2 - y1) / 12);
        found.push(svg("path", { class: "lineage", "aria-hidden": "true",
          d: `M${left - 12} ${y1}C${left - 12 - bend} ${y1} ${left - 12 - bend} ${y2} ${left - 12} ${y2}` }));
      }
      task = this.#system.tasks.get(task.parent);
    }
    return found;
  }

  #move(event, found, picture) {
    const steps = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[event.key];
    if (event.key === "Escape") {
      this.#shown = null;
      if (this.#zoomed.length) this.#zoomed.pop();
      this.update();
      return;
    }
    const node = event.target.closest("[data-key]");
    if (!steps || !node) return;
    event.preventDefault();
    const rows = [...picture.querySelectorAll("[data-key^='row:']")];
    let row = rows.indexOf(node), column = -1;
    if (row < 0) {
      const cell = found.cells.find((one) => keyOf(one) === node.dataset.key);
      row = found.rows.indexOf(cell.rows[0]);
      column = found.columns.indexOf(cell.column);
      if (steps[1] > 0) row += cell.rows.length - 1;
    }
    row = Math.max(0, Math.min(rows.length - 1, row + steps[1]));
    const start = column;
    for (column += steps[0]; column >= 0 && column < found.columns.length; column += steps[0] || 99) {
      const cell = found.cells.find((one) => one.column === found.columns[column] && one.rows.includes(found.rows[row]));
      if (cell) return focus(picture.querySelector(`[data-key="${CSS.escape(keyOf(cell))}"]`));
    }
    if (start < 0 || column < 0) focus(rows[row]);
  }

  #tell() {
    const task = this.#system.tasks.get(this.#shown?.task);
    if (task) return this.details.replaceChildren(...aboutTask(task, this.#system));
    if (this.#shown?.digests) return this.details.replaceChildren(...aboutComponent(this.#shown, this.#system));
    this.details.replaceChildren(...aboutAll(this.#system));
  }
}

const keyOf = (cell) => `cell:${cell.column.name}:${cell.rows[0].line.task.id}`;

function focus(node) {
  if (!node) return;
  for (const other of node.ownerSVGElement.querySelectorAll("[tabindex='0']")) other.setAttribute("tabindex", "-1");
  node.setAttribute("tabindex", "0");
  node.focus();
}

const shortened = (text, most) =>
  text.length <= most ? text : `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}`;

function heads(columns, left) {
  const group = svg("g", { class: "heads", transform: `translate(${left} ${TOP - 8})`, "aria-hidden": "true" });
  let free = -99; // where the last label ends
  for (const column of columns) {
    const wide = column.width > 6.2 * column.label.length;
    const x = column.x + column.width / 2;
    if (x < free) continue;
    free = wide ? column.x + column.width : x + 15;
    group.append(svg("text", wide ? { x, "text-anchor": "middle" } :
      { transform: `translate(${x + 3} 0) rotate(-38)` }, column.label));
  }
  return group;
}

function legend() {
  const entry = (kind, text) => el("li", {}, el("span", { class: `swatch ${kind}` }), text);
  return el("ul", { class: "legend", "aria-label": "Colours" },
    entry("all", "shared by all"), entry("some", "shared by some"), entry("own", "one task's own"),
    entry("hot", "asked now"), entry("absent", "not in memory"));
}

const fact = (name, value) => value === null ? null : el("div", {}, el("dt", {}, name), el("dd", {}, value));

function aboutTask(task, system) {
  const found = quality(task), own = task.bytes;
  const lineage = [];
  for (let one = task; one?.parent && lineage.length < 8; one = system.tasks.get(one.parent)) lineage.push(one.parent);
  return [
    el("h2", {}, task.id),
    el("p", { class: `badge ${task.state}` }, task.state, task.reason ? `: ${task.reason}` : ""),
    el("dl", {},
      fact("Version", task.version ? `${task.version}, ${ago(task.created)}` : "–"),
      fact("Accuracy", found ? `${percent(found.value)} on ${found.split}` : "–"),
      fact("Memory", own ? `${bytes(own.own)} own, ${bytes(own.shared)} shared` : "–"),
      fact("Requests", `${rate(perSecond(task))}/s, p50 ${ms(task.lately?.p50_ms)} ms, p99 ${ms(task.lately?.p99_ms)} ms`),
      fact("Lineage", lineage.length ? [task.id, ...lineage].join(" ← ") : "from the root")),
    el("p", { class: "actions" }, el("a", { href: `#try:${encodeURIComponent(task.id)}` }, "Try it"),
      el("a", { href: `#tasks:${encodeURIComponent(task.id)}` }, "In the table")),
  ];
}

function aboutComponent({ digests, column }, system) {
  const known = [...digests].map((one) => system.components.get(one)).filter(Boolean);
  if (known.length === 0) return [];
  const tasks = [...new Set(known.flatMap((one) => one.tasks))].sort();
  const heat = known.reduce((sum, one) => sum + one.heat, 0);
  const size = known.reduce((sum, one) => sum + one.bytes, 0);
  const resident = known.filter((one) => one.resident).length;
  return [
    el("h2", {}, labelOf(column.name)),
    el("dl", {},
      fact("Size", known.length > 1 ? `${bytes(size)} in ${number(known.length)} components` : bytes(size)),
      fact("In memory", known.length > 1 ? `${number(resident)} of ${number(known.length)}` : resident ? "yes" : known[0].loading ? "loading" : "no"),
      fact("Requests", `${rate(heat)}/s`),
      fact("Digest", known.length > 1 ? null : el("code", {}, known[0].digest.slice(7, 19))),
      fact("Tasks", number(tasks.length))),
    el("ul", { class: "tasks" }, tasks.slice(0, 12).map((id) => el("li", {}, el("a", { href: `#map:${encodeURIComponent(id)}` }, id)))),
    tasks.length > 12 ? el("p", { class: "hint" }, `and ${number(tasks.length - 12)} more`) : "",
  ];
}

function aboutAll(system) {
  const parts = [...system.components.values()], tasks = [...system.tasks.values()];
  const sum = (list) => list.reduce((total, one) => total + one.bytes, 0);
  const alone = tasks.reduce((total, task) => total + (task.bytes?.total ?? 0), 0);
  return [
    el("h2", {}, "The system"),
    el("dl", {},
      fact("Tasks", number(tasks.length)),
      fact("Components", number(parts.length)),
      fact("Bytes", `${bytes(sum(parts))}, ${alone && sum(parts) ? (alone / sum(parts)).toFixed(1) : "1"} times less than as separate models`),
      fact("In memory", bytes(sum(parts.filter((one) => one.resident)))),
      fact("Requests", `${rate(tasks.reduce((total, task) => total + perSecond(task), 0))}/s`)),
    el("p", { class: "hint" }, "Each line is a task, from its image to its head. A block is a component: as tall as the tasks that share it, as wide as its bytes. Point at one, or use the arrow keys."),
  ];
}
