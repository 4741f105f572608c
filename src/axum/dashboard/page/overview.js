// What there is, and what needs somebody.

import { bars, spark } from "./chart.js";
import { ago, bytes, h, nothing, number, operationName, recordTable, show, when } from "./elements.js";
import { get } from "./server.js";

const MEANS = {
  crashed: "Ended without an outcome: nobody knows how far they came",
  suspended: "Ended after finished steps: the next retry continues",
  running: "An attempt holds the lease now",
  finished: "Retries get the stored answer",
};

const RANGES = { hour: "1 hour", day: "24 hours", week: "7 days" };

export async function overview({ place, parameters, noteCounts, isCurrent }) {
  const range = parameters.get("range") ?? "day";
  const operation = parameters.get("operation") ?? "";
  const found = await get("overview", { range, operation });
  if (!isCurrent()) return;
  noteCounts(found);
  const counts = Object.fromEntries(found.states.map((state, at) => [state, found.counts[at]]));
  show(place,
    h("h1", { class: "skip" }, "Overview"),
    h("div", { class: "cards" }, found.states.map((state) => card(state, counts[state], found.complete))),
    counted(found),
    attention(found),
    overTime(found, range, operation),
    operations(found));
}

const card = (state, count, isComplete) => h("a", { class: `card ${state} ${count ? "some" : ""}`, href: `#/records?state=${state}`, "data-focus": `card ${state}` },
  h("div", { class: "label" }, state[0].toUpperCase() + state.slice(1)),
  h("div", { class: "figure", "data-count": state }, !isComplete && h("small", {}, "at least"), number(count)),
  h("div", { class: "means" }, MEANS[state]));

function counted({ complete, records, began_at: began, counted_at: at }) {
  const long = at - began > 15_000;
  if (!complete) {
    return h("p", { class: "note partial" }, `A partial count: ${number(records)} records so far. The store is read on while this page is open.`);
  }
  return h("p", { class: "note" }, `${number(records)} records, counted ${ago(at)}${long ? `, over ${ago(began, at).replace(" ago", "")}` : ""}.`);
}

function attention({ attention: records, complete, counts }) {
  const all = counts[0] + counts[1];
  const empty = complete
    ? nothing("Nothing is stuck", "No attempt has crashed, and none is suspended.", true)
    : nothing("Nothing found so far", "The store has not been read to its end.");
  return h("section", { class: "panel", "aria-labelledby": "attention" },
    h("header", {}, h("h2", { id: "attention" }, "Needs attention"),
      all > records.length && h("span", { class: "end note" }, `the newest ${records.length} of ${number(all)}`)),
    records.length ? recordTable(records) : empty);
}

function overTime(found, range, operation) {
  const to = (other) => `#/?${new URLSearchParams({ range: other, ...(operation && { operation }) })}`;
  const choose = h("select", { "aria-label": "Operation", "data-focus": "operation", onchange: (event) => {
    location.hash = `#/?${new URLSearchParams({ range, ...(event.target.value && { operation: event.target.value }) })}`;
  } }, h("option", { value: "" }, "Every operation"),
  found.operations.map(({ name }) => name && h("option", { value: name, selected: name === operation }, name)));
  return h("section", { class: "panel", "aria-labelledby": "over-time" },
    h("header", {}, h("h2", { id: "over-time" }, "By when they were claimed"),
      h("div", { class: "end" }, choose, h("nav", { class: "segments", "aria-label": "Range" },
        Object.entries(RANGES).map(([word, text]) => h("a", { href: to(word), "aria-current": word === range && "true", "data-focus": `range ${word}` }, text))))),
    h("div", { class: "inside" }, bars(found)));
}

function operations(found) {
  if (!found.operations.length) {
    return h("section", { class: "panel" }, h("header", {}, h("h2", {}, "Operations")),
      nothing("No records yet", "The first call of an idempotent operation makes one."));
  }
  const rows = found.operations.map((operation) => h("tr", {},
    h("td", {}, h("a", { href: `#/records?${new URLSearchParams({ operation: operation.name })}`, "data-focus": `operation ${operation.name}` },
      h("span", { class: "name" }, operationName(operation.name)))),
    h("td", {}, spark(operation.day)),
    operation.counts.map((count, at) => h("td", { class: `number ${count ? found.states[at] : "zero"}` }, number(count))),
    h("td", { class: "number" }, bytes(operation.bytes)),
    h("td", { class: "number" }, when(operation.last_claimed))));
  const head = (text, kind) => h("th", { class: kind, scope: "col" }, text);
  return h("section", { class: "panel", "aria-labelledby": "operations" },
    h("header", {}, h("h2", { id: "operations" }, "Operations"),
      found.operations_left_out > 0 && h("span", { class: "end note" }, `and ${number(found.operations_left_out)} records of further ones`)),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, head("Operation"), head("24 hours"), found.states.map((state) => head(state[0].toUpperCase() + state.slice(1), "number")),
        head("Size", "number"), head("Last claimed", "number"))),
      h("tbody", {}, rows))));
}
