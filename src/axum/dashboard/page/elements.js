// Elements, and figures for people. Text is set as text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Replaces what a place shows, and keeps the focus where it was.
export function show(place, ...content) {
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  place.replaceChildren(...content.flat(Infinity).filter(Boolean));
  if (focused) place.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

const NUMBER = new Intl.NumberFormat("en");
export const number = (value) => NUMBER.format(value);

export function bytes(value) {
  if (value < 1000) return `${value} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let unit = -1;
  do { value /= 1000; unit += 1; } while (value >= 999.5 && unit < units.length - 1);
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return "less than a second";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = units.findIndex(([, size]) => seconds >= size);
  const [unit, size] = units[at];
  const whole = Math.floor(seconds / size);
  const [smaller, less] = units[at + 1] ?? [];
  const rest = smaller && whole < 10 ? Math.floor((seconds % size) / less) : 0;
  return rest ? `${whole} ${unit} ${rest} ${smaller}` : `${whole} ${unit}`;
}

export function ago(time, now = Date.now()) {
  if (time === null || time === undefined) return "not known";
  return now - time < 1000 ? "just now" : `${duration(now - time)} ago`;
}

export function moment(time) {
  if (time === null || time === undefined) return "not known";
  const date = new Date(time);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export const when = (time) => h("time", { datetime: time ? new Date(time).toISOString() : undefined, title: moment(time) }, ago(time));

export const pill = (state) => h("span", { class: `pill ${state}` }, state);

export const operationName = (name) => name || "(not known)";

export const recordLink = (id, ...content) => h("a", { href: `#/record/${id}`, "data-focus": `record ${id}` }, ...content);

// The table of records that several views show.
export function recordTable(records, { withState = true } = {}) {
  const rows = records.map((record) => h("tr", { "data-row": record.id },
    withState && h("td", {}, pill(record.state)),
    h("td", {}, recordLink(record.id, h("span", { class: "name" }, operationName(record.operation)))),
    h("td", { class: "mono soft", title: record.id }, record.id.slice(0, 12)),
    h("td", { class: "number" }, number(record.attempt)),
    h("td", { class: "number" }, when(record.claimed_at)),
    h("td", { class: "number" }, record.lease_left_ms === null ? h("span", { class: "soft" }, "over") : duration(record.lease_left_ms)),
    h("td", { class: "number" }, duration(record.kept_for_ms)),
    h("td", { class: "number" }, record.bytes ? bytes(record.bytes) : h("span", { class: "soft" }, "–"))));
  const head = (text, kind) => h("th", { class: kind, scope: "col" }, text);
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, withState && head("State"), head("Operation"), head("Record"), head("Attempt", "number"),
      head("Claimed", "number"), head("Lease left", "number"), head("Kept for", "number"), head("Size", "number"))),
    h("tbody", {}, rows)));
}

export const nothing = (title, text, isGood) => h("div", { class: "empty" },
  isGood && h("div", { class: "tick", "aria-hidden": "true" }, "✓"), h("strong", {}, title), text);
