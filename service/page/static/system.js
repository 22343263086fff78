// The tasks of the gateway and their paths, kept up to date by its stream of changes.

const PAGE = 500, AGAIN_MS = 3000, POLL_MS = 10000;
const FRESH_MS = 20000; // a new task glows for so long

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export class System extends EventTarget {
  tasks = new Map(); // id -> task
  components = new Map(); // digest -> {digest, bytes, tasks: ids, resident, loading, heat}
  you = { name: "", tokens: false, admin: false };
  complete = false;
  live = false;
  known = 0;
  #token = sessionStorage.getItem("token") ?? "";
  #changed = null;
  #run = 0;
  #told = new Set(); // tasks of which the stream said something while pages were read

  get token() {
    return this.#token;
  }

  use(token) {
    this.#token = token;
    sessionStorage.setItem("token", token);
    this.start();
  }

  async ask(path, options = {}) {
    const headers = { ...options.headers };
    if (this.#token) headers.authorization = `Bearer ${this.#token}`;
    const answer = await fetch(path, { ...options, headers, credentials: "omit" });
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    throw new Refusal(answer.status, problem.detail ?? `the gateway answered ${answer.status}`);
  }

  async start() {
    const run = ++this.#run;
    this.tasks.clear();
    this.complete = this.live = false;
    while (run === this.#run) {
      try {
        await this.#follow(run);
      } catch (error) {
        if (run !== this.#run) return;
        this.live = false;
        this.#tell("trouble", error);
        if (error.status === 401 || error.status === 403) return;
        if (error.status === 503 && !this.complete) await this.#read(run).catch(() => {});
        const pause = error.status === 503 ? POLL_MS : AGAIN_MS;
        await new Promise((done) => setTimeout(done, pause));
      }
    }
  }

  async #follow(run) {
    const stop = new AbortController();
    const answer = await this.ask("/system/events", { signal: stop.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", reading = null;
    try {
      while (run === this.#run) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the gateway ended the stream");
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const found = event.match(/^event: (\w+)\ndata: (.*)$/s);
          if (found === null) continue;
          if (found[1] === "open" || found[1] === "reload") {
            this.#told.clear();
            reading = this.#read(run).catch((error) => stop.abort(error));
          } else this.#take(found[1], JSON.parse(found[2]));
        }
      }
    } finally {
      stop.abort();
      await reading;
    }
  }

  async #read(run) {
    const seen = new Set();
    let after = "", page;
    do {
      const query = `?limit=${PAGE}&after=${encodeURIComponent(after)}`;
      page = await (await this.ask(`/system${query}`)).json();
      if (run !== this.#run) return;
      this.you = page.you;
      for (const task of page.tasks) seen.add(task.id);
      this.#put({ ...page, tasks: page.tasks.filter((task) => !this.#told.has(task.id)) });
      this.#soon();
    } while ((after = page.next));
    for (const id of this.tasks.keys()) if (!seen.has(id) && !this.#told.has(id)) this.tasks.delete(id);
    this.complete = this.live = true;
    clearTimeout(this.#changed);
    this.#changed = null;
    this.#soon();
  }

  #put(page) {
    for (const task of page.tasks) {
      const before = this.tasks.get(task.id);
      const isNew = this.complete && (before === undefined || before.version !== task.version);
      task.since = isNew ? Date.now() : (before?.since ?? 0);
      task.lately ??= undefined;
      task.path = Object.entries(task.components ?? {}).map(([name, place]) =>
        [name, page.components[place].digest, page.components[place].bytes]);
      delete task.components;
      this.tasks.set(task.id, task);
      if (isNew) setTimeout(() => this.#soon(), FRESH_MS + 100);
    }
  }

  #take(kind, data) {
    if (kind === "tasks") {
      for (const task of data.tasks) this.#told.add(task.id);
      this.#put(data);
    } else if (kind === "removed") {
      for (const id of data) {
        this.#told.add(id);
        this.tasks.delete(id);
      }
    } else if (kind === "lately") {
      for (const task of this.tasks.values()) task.lately = data[task.id];
    } else return;
    this.#soon();
  }

  #soon() {
    this.#changed ??= setTimeout(() => {
      this.#changed = null;
      this.#count();
      this.#tell("change");
    }, this.complete ? 150 : Math.min(2000, this.tasks.size));
  }

  #count() {
    this.components.clear();
    this.known = 0; // tasks whose path could be read
    for (const task of this.tasks.values()) {
      const heat = perSecond(task);
      this.known += task.path.length > 0;
      for (const [, digest, bytes] of task.path) {
        let found = this.components.get(digest);
        if (found === undefined) {
          found = { digest, bytes, tasks: [], resident: false, loading: false, heat: 0 };
          this.components.set(digest, found);
        }
        if (found.tasks.at(-1) === task.id) continue; // two of its sub-paths have it
        found.tasks.push(task.id);
        found.heat += heat;
        found.resident ||= task.state === "ready";
        found.loading ||= task.state === "loading";
      }
    }
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

export const perSecond = (task) => (task.lately ? task.lately.requests / task.lately.seconds : 0);

export const isFresh = (task) => Date.now() - task.since < FRESH_MS;

// The best known measurement of a task: {value, split, count}, or null.
export function quality(task) {
  for (const split of ["test", "validation", ...Object.keys(task.quality ?? {})]) {
    const value = task.quality?.[split];
    if (value !== undefined) return { value, split, count: task.examples?.[split] };
  }
  return null;
}
