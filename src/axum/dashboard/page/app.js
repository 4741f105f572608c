// The frame: which view is shown, what is read again, and the keys.

import { h, number, show } from "./elements.js";
import { overview } from "./overview.js";
import { record } from "./record.js";
import { records } from "./records.js";
import { begin, session } from "./server.js";

const place = document.querySelector("#main");
const nav = document.querySelector("#nav");
const trouble = document.querySelector("#trouble");
const said = document.querySelector("#said");
const EVERY = 5000;

let counts = null;
let turn = 0;
let timer;
let drawn = "";

const route = () => {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  return { path: path || "/", parameters: new URLSearchParams(query) };
};

function say(text) {
  said.textContent = text;
  setTimeout(() => { if (said.textContent === text) said.textContent = ""; }, 6000);
}

function noteCounts(found) {
  counts = found;
  drawNav();
}

function drawNav() {
  const { path, parameters } = route();
  const state = path === "/records" ? parameters.get("state") ?? "all" : "";
  const of = (word) => counts?.counts[counts.states.indexOf(word)] ?? 0;
  const badge = (word) => of(word) > 0 && h("span", { class: `count ${word}` }, `${number(of(word))}${counts.complete ? "" : "+"}`);
  const link = (href, text, isCurrent, mark) => h("a", { href, "aria-current": isCurrent && "page", "data-focus": text }, text, mark);
  show(nav, link("#/", "Overview", path === "/"),
    link("#/records?state=crashed", "Crashed", state === "crashed", badge("crashed")),
    link("#/records?state=suspended", "Suspended", state === "suspended", badge("suspended")),
    link("#/records", "Records", ["all", "running", "finished"].includes(state)));
}

async function draw({ isFresh }) {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  drawn = location.hash;
  const isCurrent = () => mine === turn;
  const { path, parameters } = route();
  const common = { place, parameters, isCurrent, noteCounts, say, counts: () => counts, again: () => draw({ isFresh: false }) };
  drawNav();
  try {
    if (!session) await begin();
    describe();
    if (path === "/") await overview(common);
    else if (path === "/records") await records(common);
    else if (path.startsWith("/record/")) await record({ ...common, id: decodeURIComponent(path.slice("/record/".length)) });
    else location.hash = "#/";
    trouble.hidden = true;
  } catch (refused) {
    if (!isCurrent()) return;
    trouble.textContent = refused.message;
    trouble.hidden = false;
  }
  if (!isCurrent()) return;
  if (isFresh) {
    document.title = `${place.querySelector("h1")?.textContent ?? "idem"} · idem`;
    window.scrollTo(0, 0);
    if (document.activeElement === document.body) place.focus({ preventScroll: true });
  }
  // A list stays as it is while somebody reads it, and so does what somebody is about to change.
  if (path === "/" || !trouble.hidden || (path.startsWith("/record/") && place.querySelector(".pill.running"))) {
    timer = setTimeout(refresh, EVERY);
  }
}

function refresh() {
  const isBusy = document.hidden || document.querySelector("dialog[open]") || place.querySelector("select:focus, textarea:focus");
  if (isBusy) timer = setTimeout(refresh, EVERY);
  else draw({ isFresh: false });
}

function describe() {
  const mode = document.querySelector("#mode");
  mode.textContent = session.allow_changes ? "changes allowed" : "read-only";
  mode.classList.toggle("changes", session.allow_changes);
  document.querySelector("#about").textContent = `idem ${session.version} · ${session.store} store`;
}

// Themes: the system's, and its two others.
const theme = document.querySelector("#theme");
const THEMES = ["auto", "light", "dark"];
function setTheme(word) {
  document.documentElement.dataset.theme = word;
  theme.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[word];
  theme.setAttribute("aria-label", `Theme: ${word}`);
  localStorage.setItem("idem-theme", word);
}
theme.addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]));
setTheme(THEMES.includes(localStorage.getItem("idem-theme")) ? localStorage.getItem("idem-theme") : "auto");

document.querySelector("#skip").addEventListener("click", (event) => {
  event.preventDefault();
  place.focus();
});

// Finding.
const sought = document.querySelector("#find-id");
document.querySelector("#find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = sought.value.match(/[0-9a-f]{64}/i)?.[0].toLowerCase();
  if (!id) return say("A record’s id is 64 hexadecimal digits.");
  sought.value = "";
  sought.blur();
  location.hash = `#/record/${id}`;
});

// Keys.
const KEYS = [["/", "find a record by its id"], ["j  k", "next and previous record"], ["Enter", "open the chosen record"], ["o", "overview"], ["c", "crashed"], ["s", "suspended"], ["a", "all records"], ["u", "back"], ["r", "read again"], ["t", "theme"], ["?", "these keys"]];
function showKeys() {
  if (document.querySelector("dialog[open]")) return;
  const dialog = h("dialog", { "aria-label": "Keys", onclose: () => dialog.remove() }, h("form", { method: "dialog" }, h("h2", {}, "Keys"),
    h("div", { class: "shortcuts" }, KEYS.map(([key, does]) => [h("span", {}, key.split("  ").map((one) => [h("kbd", {}, one), " "])), h("span", {}, does)])),
    h("div", { class: "buttons" }, h("button", { class: "main" }, "Close"))));
  document.body.append(dialog);
  dialog.showModal();
}
document.querySelector("#keys").addEventListener("click", showKeys);

function choose(step) {
  const rows = [...place.querySelectorAll("tr[data-row]")];
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  rows[Math.min(rows.length - 1, Math.max(0, at + step))]?.querySelector("a").focus();
}

const DO = {
  "/": () => sought.focus(), j: () => choose(1), k: () => choose(-1), "?": showKeys,
  o: () => { location.hash = "#/"; }, c: () => { location.hash = "#/records?state=crashed"; },
  s: () => { location.hash = "#/records?state=suspended"; }, a: () => { location.hash = "#/records"; },
  u: () => history.back(), r: () => { draw({ isFresh: false }); say("Read again."); }, t: () => theme.click(),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && event.target === sought) return sought.blur();
  if (event.target.closest("input, textarea, select")) return;
  const act = DO[event.key];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("focusin", () => {
  for (const row of place.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
  document.activeElement.closest?.("tr[data-row]")?.classList.add("chosen");
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && counts && route().path === "/") draw({ isFresh: false }); });
window.addEventListener("hashchange", () => { if (location.hash.startsWith("#/") && location.hash !== drawn) draw({ isFresh: true }); });

draw({ isFresh: true });
