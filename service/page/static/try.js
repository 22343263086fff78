// Images in, answers out: the same call that a program makes, with the code for it.

import { bytes, copyable, el, ms, number } from "./dom.js";

const SHOWN = 40; // tasks in the list; a search finds the others
const STAGES = ["receive", "decode", "load", "queue", "execute", "answer"];

export class TryView {
  title = "Try";
  #system;
  #ticked = new Set();
  #images = []; // {name, blob, url, node}

  constructor(system) {
    this.#system = system;
    this.search = el("input", { type: "search", placeholder: "Find tasks", "aria-label": "Find tasks to ask",
      oninput: () => this.update() });
    this.list = el("ul", { class: "choices" });
    this.more = el("p", { class: "hint" });
    this.ticks = el("p", { class: "ticks" });
    this.file = el("input", { type: "file", accept: "image/png,image/jpeg,image/webp,image/bmp,image/gif", multiple: true,
      id: "files", class: "hidden", onchange: () => { this.#add(this.file.files); this.file.value = ""; } });
    this.drop = el("label", { class: "drop", for: "files" }, el("b", {}, "Drop images here"), el("span", {}, "paste them, or choose files"));
    this.answers = el("div", { class: "answers", "aria-live": "polite" });
    this.code = el("div", { class: "codes" });
    this.node = el("section", { class: "try", "aria-label": "Try an image" },
      el("div", { class: "ask" },
        el("fieldset", {}, el("legend", {}, "Tasks"), this.search, this.ticks, this.list, this.more),
        el("div", {}, this.file, this.drop, this.code)),
      this.answers);
    this.drop.addEventListener("dragover", (event) => { event.preventDefault(); this.drop.classList.add("over"); });
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.#add(event.dataTransfer.files);
    });
    document.addEventListener("paste", (event) => {
      if (this.node.isConnected && event.clipboardData?.files.length) this.#add(event.clipboardData.files);
    });
  }

  show(id) {
    if (id) {
      this.#ticked.clear();
      this.#tick(id, true);
    }
    this.update();
  }

  update() {
    const { tasks } = this.#system;
    for (const id of this.#ticked) if (this.#system.complete && !tasks.has(id)) this.#ticked.delete(id);
    if (this.#system.complete && tasks.size === 1) this.#ticked.add([...tasks.keys()][0]);
    const text = this.search.value.trim().toLowerCase();
    const found = [...tasks.keys()].filter((id) => id.toLowerCase().includes(text)).sort();
    const names = found.slice(0, SHOWN);
    const key = names.join() + [...this.#ticked].join("|");
    if (this.drawn !== key) {
      this.drawn = key;
      const focused = this.list.contains(document.activeElement) ? document.activeElement.value : null;
      this.list.replaceChildren(...names.map((id) => el("li", {}, el("label", {}, el("input", { type: "checkbox", value: id,
        checked: this.#ticked.has(id), onchange: (event) => this.#tick(id, event.target.checked) }), id))));
      if (focused !== null) [...this.list.querySelectorAll("input")].find((one) => one.value === focused)?.focus();
      this.ticks.replaceChildren(...[...this.#ticked].map((id) => el("button", { type: "button", class: "tick",
        "aria-label": `Do not ask ${id}`, onclick: () => this.#tick(id, false) }, `${id} ×`)));
    }
    this.more.textContent = found.length > SHOWN ? `and ${number(found.length - SHOWN)} more: search` :
      tasks.size && !found.length ? "no task has this name" : "";
    this.#snippets();
  }

  #tick(id, on) {
    if (on) this.#ticked.add(id);
    else this.#ticked.delete(id);
    this.update();
    for (const image of this.#images) this.#ask(image);
  }

  #add(files) {
    for (const blob of files) {
      const url = URL.createObjectURL(blob), node = el("article", { class: "card" });
      const image = { name: blob.name, blob, url, node, asked: 0 };
      this.#images.unshift(image);
      this.answers.prepend(node);
      this.#ask(image);
    }
    for (const image of this.#images.splice(20)) {
      URL.revokeObjectURL(image.url);
      image.node.remove();
    }
  }

  #path() {
    const tasks = [...this.#ticked];
    if (tasks.length === 1) return `/classify/${tasks[0]}`;
    return `/classify?${tasks.map((id) => `task=${encodeURIComponent(id)}`).join("&")}`;
  }

  async #ask(image) {
    const asked = ++image.asked;
    const head = el("figure", {}, el("img", { src: image.url, alt: `the image ${image.name}` }),
      el("figcaption", {}, image.name, " ", el("span", { class: "hint" }, bytes(image.blob.size))));
    const show = (...rest) => {
      if (asked === image.asked) image.node.replaceChildren(head, el("div", { class: "results" }, rest));
    };
    if (this.#ticked.size === 0) return show(el("p", { class: "hint" }, "Tick the tasks to ask."));
    show(el("p", { class: "hint" }, "asking …"));
    const started = performance.now();
    try {
      const headers = { "content-type": image.blob.type || "application/octet-stream" };
      const answer = await this.#system.ask(this.#path(), { method: "POST", body: image.blob, headers });
      const found = await answer.json();
      const results = found.results ?? [found];
      show(results.map(result), times(found.timing_ms, performance.now() - started));
    } catch (error) {
      show(el("p", { class: "reason" }, error.message));
    }
  }

  #snippets() {
    const path = this.#ticked.size ? this.#path() : "/classify/<task>";
    const key = `${path} ${this.#system.you.tokens}`;
    if (this.coded === key) return;
    this.coded = key;
    const url = location.origin + path, tokens = this.#system.you.tokens;
    const curl = `curl --data-binary @image.jpg ${tokens ? '-H "authorization: Bearer $MUNET_TOKEN" ' : ""}'${url}'`;
    const python = ["import os", "import requests", "",
      `answer = requests.post(`, `    ${JSON.stringify(url)},`, `    data=open("image.jpg", "rb"),`,
      tokens ? `    headers={"authorization": f"Bearer {os.environ['MUNET_TOKEN']}"},` : null,
      `)`, `print(answer.json())`].filter((line) => line !== null && (tokens || line !== "import os"));
    this.code.replaceChildren(el("details", {}, el("summary", {}, "The same call in a program"),
      copyable(curl, "curl"), copyable(python.join("\n"), "Python")));
  }
}

function result(one) {
  if (one.problem) return el("section", {}, el("h2", {}, one.task), el("p", { class: "reason" }, one.problem.detail ?? String(one.problem)));
  return el("section", {}, el("h2", {}, one.task, el("span", { class: "hint" }, `version ${one.version}`)),
    one.predictions.length === 0 ? el("p", { class: "hint" }, one.abstained ? "no answer: no class is as probable as the task asks for" : "no label") :
    el("ol", { class: "bars" }, one.predictions.map(({ label, probability }) => el("li", {},
      el("span", { class: "label", title: label }, label),
      el("span", { class: "track", "aria-hidden": "true" }, el("span", { style: { width: `${100 * probability}%` } })),
      el("span", { class: "value" }, `${(100 * probability).toFixed(1)} %`)))));
}

function times(timing, all) {
  const known = STAGES.filter((stage) => timing[stage] > 0);
  const text = known.map((stage) => `${stage} ${ms(timing[stage])} ms`).join(", ");
  return el("section", { class: "times" }, el("h2", {}, "Time", el("span", { class: "hint" },
    `${ms(timing.total)} ms in the gateway, ${ms(all)} ms here`)),
    el("div", { class: "stages", role: "img", "aria-label": text }, known.map((stage) =>
      el("span", { class: stage, title: `${stage} ${ms(timing[stage])} ms`, style: { flexGrow: String(timing[stage]) } }))),
    el("ul", { class: "legend", "aria-hidden": "true" }, known.map((stage) => el("li", {}, el("span", { class: `swatch ${stage}` }), `${stage} ${ms(timing[stage])}`))));
}
