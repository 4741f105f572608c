// Records page by page, by state and operation, and one by what the application calls it.

import { h, nothing, recordTable, show } from "./elements.js";
import { get, post } from "./server.js";

const STATES = ["", "crashed", "suspended", "running", "finished"];

export async function records({ place, parameters, isCurrent, counts }) {
  const state = parameters.get("state") ?? "";
  const operation = parameters.get("operation") ?? "";
  const found = { records: [], next: null };
  const read = async (after) => {
    const page = await get("records", { state, operation, after, limit: 50 });
    found.records.push(...page.records);
    found.records.sort((one, other) => (other.claimed_at ?? 0) - (one.claimed_at ?? 0));
    found.next = page.next;
  };
  await read();
  if (!isCurrent()) return;
  const list = h("div");
  const draw = () => show(list,
    found.records.length ? recordTable(found.records, { withState: !state }) : empty(state, found.next),
    found.next !== null && h("div", { class: "more" }, further(), h("span", { class: "note" }, "The store has not been read to its end.")));
  const further = () => h("button", { type: "button", "data-focus": "further", onclick: async (event) => {
    event.target.disabled = true;
    const until = found.records.length + 1;
    try {
      // Some answers may be empty: a store looks at a part of its records at a time.
      for (let asked = 0; asked < 20 && found.next !== null && found.records.length < until && isCurrent(); asked += 1) await read(found.next);
    } finally {
      if (isCurrent()) draw();
    }
  } }, found.records.length ? "Show more" : "Look further");
  draw();
  const to = (other) => `#/records?${new URLSearchParams({ ...(other && { state: other }), ...(operation && { operation }) })}`;
  const names = new Set([operation, ...(counts()?.operations ?? []).map(({ name }) => name)].filter(Boolean));
  const choose = h("select", { "aria-label": "Operation", onchange: (event) => {
    location.hash = `#/records?${new URLSearchParams({ ...(state && { state }), ...(event.target.value && { operation: event.target.value }) })}`;
  } }, h("option", { value: "" }, "Every operation"), [...names].map((name) => h("option", { value: name, selected: name === operation }, name)));
  show(place,
    h("section", { class: "panel", "aria-labelledby": "records" },
      h("header", {}, h("h1", { id: "records" }, "Records"),
        h("div", { class: "end" }, choose, h("nav", { class: "segments", "aria-label": "State" },
          STATES.map((other) => h("a", { href: to(other), "aria-current": other === state && "true" }, other || "all"))))),
      list),
    byName(names, operation));
}

function empty(state, next) {
  if (next !== null) return nothing("None found so far", "The store is large, and has been looked at in part.");
  if (state === "crashed") return nothing("Nothing has crashed", "Every attempt has ended, or is running.", true);
  if (state === "suspended") return nothing("Nothing is suspended", "No attempt waits for a retry.", true);
  return nothing("There are no such records", "");
}

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

function byName(names, operation) {
  const wrong = h("p", { class: "wrong", role: "alert" });
  const form = h("form", { class: "named", onsubmit: async (event) => {
    event.preventDefault();
    const given = new FormData(form);
    const key = lines(given.get("key"));
    wrong.textContent = "";
    try {
      const fromHeader = key.length === 1;
      const { id } = await post("find", { operation: given.get("operation").trim(), scope: lines(given.get("scope")), key, from_header: fromHeader });
      location.hash = `#/record/${id}`;
    } catch (refused) {
      wrong.textContent = refused.message;
    }
  } },
  h("label", {}, "Operation", h("input", { name: "operation", required: true, list: "names", value: operation, autocomplete: "off" })),
  h("label", {}, h("span", {}, "Scope ", h("small", {}, "nothing if it has none; one part on each line")), h("textarea", { name: "scope", rows: 1 })),
  h("label", {}, h("span", {}, "Key ", h("small", {}, "as the header or the argument has it")), h("textarea", { name: "key", rows: 1, required: true })),
  h("button", { class: "main", type: "submit" }, "Find"),
  h("datalist", { id: "names" }, [...names].map((name) => h("option", { value: name }))), wrong);
  return h("section", { class: "panel", "aria-labelledby": "by-name" }, h("header", {}, h("h2", { id: "by-name" }, "Find a record by its key")), h("div", { class: "inside" }, form));
}
