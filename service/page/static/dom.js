// Makes elements, and says numbers in few characters.

const SVG = document.querySelector("svg").namespaceURI;

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined));
  return node;
}

export const el = (name, attributes = {}, ...children) =>
  filled(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

export const number = (value) => Math.round(value).toLocaleString("en");

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (value >= 999.5 && place < units.length - 1) {
    value /= 1000;
    place += 1;
  }
  return `${value < 10 && place ? value.toFixed(1) : Math.round(value)} ${units[place]}`;
}

export const rate = (value) =>
  value === 0 ? "0" : value < 0.095 ? "<0.1" : value < 10 ? value.toFixed(1) : number(value);

export const ms = (value) =>
  value === null || value === undefined ? "–" : value < 10 ? value.toFixed(1) : number(value);

export const percent = (value) => `${(100 * value).toFixed(1)} %`;

export function ago(text) {
  const seconds = (Date.now() - Date.parse(text)) / 1000;
  if (!Number.isFinite(seconds)) return "–";
  for (const [size, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${name}${count > 1 ? "s" : ""} ago`;
  }
  return "just now";
}

// Half of the 95 % interval of Wilson around an accuracy measured with `count` pictures.
export function halfWidth(accuracy, count) {
  const z = 1.96;
  const inner = (accuracy * (1 - accuracy)) / count + (z * z) / (4 * count * count);
  return (z * Math.sqrt(inner)) / (1 + (z * z) / count);
}

export function copyable(text, label) {
  const button = el("button", { type: "button", class: "plain copy" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return el("figure", { class: "code" },
    el("figcaption", {}, label, button), el("pre", { tabindex: "0" }, el("code", {}, text)));
}
