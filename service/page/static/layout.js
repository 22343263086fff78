// Where the map draws what. Rows are tasks, or groups of tasks; columns are the depths of their
// paths; a cell is a component, as tall as the rows that share it and as wide as its bytes.
// Knows no document, so that any page may draw with it.

const NARROWEST = 12; // pixels of a column

const known = new WeakMap(); // task -> its lines

// A task has one line; a multipath task has one for each of its sub-paths.
function linesOf(task) {
  if (!known.has(task)) known.set(task, madeLines(task));
  return known.get(task);
}

function madeLines(task) {
  const lines = new Map();
  for (const [name, digest, bytes] of task.path) {
    const slash = name.lastIndexOf("/");
    const sub = slash < 0 ? "" : name.slice(0, slash);
    const key = sub || "path_0";
    if (!lines.has(key)) lines.set(key, { task, sub, parts: new Map(), bytes: new Map() });
    lines.get(key).parts.set(name.slice(slash + 1), digest);
    lines.get(key).bytes.set(name.slice(slash + 1), bytes);
  }
  for (const line of lines.values()) {
    line.key = [...line.parts.keys()].join();
    if (lines.size < 2) line.sub = "";
  }
  return lines.size ? [...lines.values()] : [{ task, sub: "", parts: new Map(), bytes: new Map() }];
}

// All names of parts, in an order that agrees with that of every path.
function columnsOf(lines) {
  const order = [], bytes = new Map(), orders = new Map();
  for (const line of lines) {
    orders.set(line.key, line);
    for (const [name, size] of line.bytes) if (size > (bytes.get(name) ?? -1)) bytes.set(name, size);
  }
  for (const line of orders.values()) {
    let place = 0;
    for (const name of line.parts.keys()) {
      const found = order.indexOf(name);
      if (found >= 0) place = found + 1;
      else order.splice(place++, 0, name);
    }
  }
  return order.map((name) => ({ name, label: labelOf(name), bytes: bytes.get(name) }));
}

export function labelOf(name) {
  const short = { embedding: "patches", cls: "class token", posembed_input: "positions",
    encoder_norm: "norm", head: "head" };
  return short[name] ?? name.replace(/^encoderblock_/, "block ").replace(/_/g, " ");
}

function widths(columns, width) {
  const gap = columns.length > 16 ? 2 : 3;
  const total = columns.reduce((sum, column) => sum + column.bytes, 0) || 1;
  const free = Math.max(0, width - columns.length * (NARROWEST + gap));
  let x = 0;
  for (const column of columns) {
    column.x = x;
    column.width = NARROWEST + (free * column.bytes) / total;
    x += column.width + gap;
  }
}

// Lines next to one another share as much as possible: what most have comes first.
function sorted(lines, columns, users) {
  const ranks = new Map(lines.map((line) => [line, columns.map(({ name }) => {
    const digest = line.parts.get(name);
    return digest === undefined ? [-1, ""] : [users(digest), digest];
  })]));
  return [...lines].sort((one, other) => {
    const [a, b] = [ranks.get(one), ranks.get(other)];
    for (let i = 0; i < a.length; i++) {
      if (a[i][1] !== b[i][1]) return b[i][0] - a[i][0] || (a[i][1] < b[i][1] ? -1 : 1);
    }
    return one.task.id < other.task.id ? -1 : 1;
  });
}

// Splits lines at the first column where they differ.
function split(lines, columns) {
  for (const { name } of columns) {
    const parts = new Map();
    for (const line of lines) {
      const digest = line.parts.get(name) ?? "";
      if (!parts.has(digest)) parts.set(digest, []);
      parts.get(digest).push(line);
    }
    if (parts.size > 1) return [...parts.values()];
  }
  return null;
}

// At most `budget` rows: single lines that matter, and groups of all others that go together.
function grouped(lines, columns, budget, weight) {
  if (lines.length <= budget) return lines.map((line) => [line]);
  const ranked = lines.filter((line) => weight(line.task) > 0)
    .sort((one, other) => weight(other.task) - weight(one.task));
  const single = new Set(ranked.slice(0, Math.floor(budget / 3)));
  let groups = [lines.filter((line) => !single.has(line))];
  const whole = new Set();
  const room = () => budget - single.size - groups.length;
  for (;;) {
    const open = groups.filter((group) => group.length > 1 && !whole.has(group));
    if (open.length === 0) break;
    const largest = open.reduce((a, b) => (b.length > a.length ? b : a));
    const parts = split(largest, columns);
    if (parts !== null && parts.length - 1 <= room()) {
      groups = groups.flatMap((group) => (group === largest ? parts : [group]));
    } else whole.add(largest);
  }
  if (groups.length === 1) { // they have little in common, or all but one part: the first by name
    const few = groups[0].slice(0, Math.max(0, room()));
    groups = [...few.map((line) => [line]), groups[0].slice(few.length)];
  }
  return [...[...single].map((line) => [line]), ...groups];
}

export function layout(tasks, { width, height, budget, users, weight, least = 16, most = 46 }) {
  const lines = tasks.flatMap(linesOf);
  const columns = columnsOf(lines);
  widths(columns, width);
  const groups = grouped(lines, columns, budget, weight);
  const firsts = new Map(groups.map((group) => [group[0], group]));
  const rows = sorted([...firsts.keys()], columns, users).map((line) => {
    const group = firsts.get(line);
    return { line, lines: group, tasks: group.map((one) => one.task), isGroup: group.length > 1 };
  });
  const units = rows.reduce((sum, row) => sum + (row.isGroup ? 1.7 : 1), 0) || 1;
  const unit = Math.min(most, Math.max(least, height / units));
  let y = 0;
  for (const row of rows) {
    row.y = y;
    row.height = unit * (row.isGroup ? 1.7 : 1);
    y += row.height;
  }
  return { columns, rows, cells: cells(rows, columns), height: y };
}

// Rows that follow one another with the same component have one cell.
function cells(rows, columns) {
  const found = [];
  for (const column of columns) {
    let last = null;
    for (const row of rows) {
      const digests = new Set(row.lines.map((line) => line.parts.get(column.name)));
      const digest = digests.size === 1 ? [...digests][0] : undefined;
      if (digest !== undefined && last?.digest === digest) {
        last.rows.push(row);
      } else if (digests.size > 1 || digest !== undefined) {
        const bytes = row.line.bytes.get(column.name) ?? column.bytes;
        last = { column, digest, digests, rows: [row], bytes };
        found.push(last);
      } else last = null;
    }
  }
  for (const cell of found) {
    const [first, last] = [cell.rows[0], cell.rows.at(-1)];
    cell.y = first.y;
    cell.height = last.y + last.height - first.y;
    const full = cell.column.width;
    cell.width = Math.max(Math.min(NARROWEST, full), (full * cell.bytes) / cell.column.bytes);
  }
  return found;
}
