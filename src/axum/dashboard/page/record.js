// One record: its life, its answer, and what a person can do about it.

import { bytes, duration, h, moment, nothing, operationName, pill, show, when } from "./elements.js";
import { get, post, session } from "./server.js";

export async function record({ place, id, isCurrent, say, again }) {
  const shown = { bodies: false };
  const load = async () => {
    let found;
    try {
      found = await get(`records/${encodeURIComponent(id)}`, { bodies: shown.bodies ? "true" : "" });
    } catch (refused) {
      if (!["no-record", "not-an-id"].includes(refused.error)) throw refused;
      if (isCurrent()) show(place, h("section", { class: "panel" }, nothing("There is no such record", refused.message)));
      return;
    }
    if (!isCurrent()) return;
    const reveal = session.show_bodies && !shown.bodies && h("button", { type: "button", class: "quiet", "data-focus": "reveal", onclick: () => { shown.bodies = true; load(); } }, "Show bodies");
    show(place, title(found, say), h("div", { class: "two" },
      h("div", { class: "column" }, life(found, reveal), answer(found, reveal)),
      h("div", { class: "column" }, todo(found, { say, again }), facts(found))));
  };
  await load();
}

function title({ id, state, operation }, say) {
  const copy = h("button", { type: "button", class: "quiet", "data-focus": "copy", onclick: async () => {
    await navigator.clipboard.writeText(id);
    say("The id is copied.");
  } }, "Copy");
  return h("div", {}, h("div", { class: "title" }, h("h1", {}, operationName(operation)), pill(state)),
    h("div", { class: "identity mono" }, id, copy));
}

const item = (kind, what, whenText, ...more) => h("li", { class: kind }, h("div", { class: "what" }, what), whenText && h("div", { class: "when" }, whenText), ...more);

function life(found, reveal) {
  const { state, attempt, steps } = found;
  const items = [];
  if (attempt === 2) items.push(item("past", "Attempt 1 ended without an outcome", "its lease was over, and a later claim took the record"));
  if (attempt > 2) items.push(item("past", `Attempts 1 to ${attempt - 1} ended without an outcome`, "each lease was over, and a later claim took the record"));
  const claimed = found.claimed_at === null ? "when is not known" : [moment(found.claimed_at), " · ", when(found.claimed_at)];
  items.push(item("done", `Attempt ${attempt} claimed the record`, claimed));
  for (const step of steps) {
    items.push(item("done", ["Step ", h("span", { class: "mono" }, step.name), " finished"], `${bytes(step.bytes)}, kept for any later attempt`, step.value && body(step.value)));
  }
  if (found.steps_unreadable) items.push(item("past", "Its finished steps cannot be read by this version"));
  const ends = {
    running: [item("running", "It is running", `its lease is renewed, or over in ${duration(found.lease_left_ms ?? 0)}`)],
    crashed: [item("crashed", "Its lease is over, and it left no outcome", "the process died, panicked, or ran out of time"),
      item("next", "The next retry", steps.length ? "runs again with the finished steps given back; under on_crash = \"refuse\" it is refused until the record is resolved" : "runs the body again; under on_crash = \"refuse\" it is refused until the record is resolved")],
    suspended: [item("suspended", "It is suspended", "it ended without an outcome, after finished steps"), item("next", "The next retry", "continues: finished steps are given back and do not run again")],
    finished: [item("done", `Finished${found.outcome?.status ? ` with ${found.outcome.status}` : ""}`, "retries get the stored answer, byte for byte")],
  };
  return h("section", { class: "panel", "aria-labelledby": "life" }, h("header", {}, h("h2", { id: "life" }, "Life of the record"), steps.length > 0 && reveal && h("div", { class: "end" }, reveal)),
    h("div", { class: "inside" }, h("ol", { class: "timeline" }, items, ends[state])));
}

function body({ text, is_text: isText, left_out: leftOut }) {
  let readable = text;
  if (isText && !leftOut) {
    try {
      readable = JSON.stringify(JSON.parse(text), null, 2);
    } catch { /* It is no JSON. */ }
  }
  return [h("pre", {}, readable || " "), (leftOut > 0 || !isText) && h("p", { class: "note" }, [!isText && "Not text: shown byte by byte.", leftOut > 0 && ` ${bytes(leftOut)} more are not shown.`].filter(Boolean).join(""))];
}

const KINDS = { value: "A function’s value", failure: "A function’s error", rpc: "An answer of gRPC", tombstone: "The answer was not kept", unreadable: "This version cannot read it", response: "An HTTP response" };

function answer({ outcome, steps }, reveal) {
  if (!outcome) return null;
  const rows = [h("dt", {}, "Kind"), h("dd", {}, KINDS[outcome.kind])];
  if (outcome.status) rows.push(h("dt", {}, "Status"), h("dd", {}, `${outcome.status} ${outcome.reason ?? ""}`));
  for (const { name, value } of outcome.headers ?? []) rows.push(h("dt", { class: "mono" }, name), h("dd", { class: value === null ? "soft" : "mono" }, value ?? "not shown"));
  if (outcome.why) rows.push(h("dt", {}, "Why"), h("dd", {}, outcome.why));
  rows.push(h("dt", {}, "Body"), h("dd", {}, bytes(outcome.bytes)));
  return h("section", { class: "panel", "aria-labelledby": "answer" }, h("header", {}, h("h2", { id: "answer" }, "The stored answer"), !steps.length && reveal && h("div", { class: "end" }, reveal)),
    h("div", { class: "inside" }, h("dl", { class: "facts" }, rows), outcome.body && body(outcome.body)));
}

const facts = (found) => h("section", { class: "panel", "aria-labelledby": "facts" }, h("header", {}, h("h2", { id: "facts" }, "Facts")),
  h("div", { class: "inside" }, h("dl", { class: "facts" },
    h("dt", {}, "State"), h("dd", {}, found.state),
    h("dt", {}, "Attempt"), h("dd", {}, found.attempt),
    h("dt", {}, "Claimed"), h("dd", {}, moment(found.claimed_at)),
    h("dt", {}, "Age"), h("dd", {}, found.claimed_at === null ? "not known" : duration(Date.now() - found.claimed_at)),
    found.state === "running" && [h("dt", {}, "Lease left"), h("dd", {}, duration(found.lease_left_ms ?? 0))],
    found.kept_for_ms !== null && [h("dt", {}, "Kept for"), h("dd", {}, duration(found.kept_for_ms))],
    h("dt", {}, "Finished steps"), h("dd", {}, found.steps.length),
    h("dt", {}, "Fingerprint"), h("dd", { class: "mono" }, `${found.fingerprint}…`))));

function todo(found, tools) {
  const { state, steps } = found;
  const open = (dialog) => () => dialog(found, tools);
  const choice = (kind, text, small, dialog) => h("button", { type: "button", class: kind, disabled: !session.allow_changes, "data-focus": text, onclick: open(dialog) }, text, h("small", {}, small));
  const content = {
    running: [h("p", {}, "Nothing: an attempt is at work and holds the lease. If its process is dead, the lease ends by itself, and the record counts as crashed.",
      session.allow_changes && " If you cannot wait for that, its lease can be taken away.")],
    suspended: [h("p", {}, "Usually nothing: the client’s next retry continues after the finished steps. If no retry will come, say what happened.")],
    crashed: [h("p", { class: "panel-crashed" }, "Whether this attempt had an effect is not known. ", h("strong", {}, "Look first"), " where the effect would be: the bank, the provider, your own tables.", steps.length ? " What its finished steps did has happened." : "")],
    finished: [h("p", {}, "Nothing: retries get the stored answer until it is forgotten.")],
  }[state];
  if (state === "crashed" || state === "suspended" || (state === "running" && session.allow_changes)) {
    content.push(h("div", { class: "choices" },
      choice("main", "It happened: store its answer", "Retries get the answer that you give. The body does not run again.", resolveDialog),
      choice("danger", "Nothing happened: free the key", "The next retry runs the operation from its beginning.", releaseDialog)));
  }
  if (state === "finished") content.push(h("div", { class: "choices" }, choice("danger", "Forget this record", "A retry would run the operation again.", forgetDialog)));
  if (state !== "running" && !session.allow_changes) content.push(h("p", { class: "note" }, "This dashboard is read-only."));
  return h("section", { class: "panel", "aria-labelledby": "todo" }, h("header", {}, h("h2", { id: "todo" }, "What to do")), h("div", { class: "inside todo" }, content));
}

const reasonField = () => h("label", {}, h("span", {}, "Why ", h("small", {}, "for the log: a ticket, what you found")), h("input", { name: "reason", required: true, maxlength: 1000, autocomplete: "off" }));

function confirmDialog(found, { say, again }, { heading, content, button, kind, path, value, done }) {
  const holdsLease = found.state === "running";
  const wrong = h("p", { class: "wrong", role: "alert" });
  const asked = h("div", { class: "asked" }, content, reasonField());
  const cancel = () => h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const sure = h("button", { type: "submit", class: kind }, button);
  const buttons = h("div", { class: "buttons" });
  let isConfirmed = false;
  const form = h("form", { method: "dialog", onsubmit: async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    if (holdsLease && !isConfirmed) return confirmRevocation();
    const send = event.submitter ?? sure;
    send.disabled = true;
    try {
      const given = new FormData(form);
      await post(`records/${found.id}/${path}`, { attempt: found.attempt, state: found.state, force: holdsLease, reason: given.get("reason"), ...value(given) });
      dialog.close();
      say(done);
      again();
    } catch (refused) {
      wrong.textContent = refused.message;
      send.disabled = false;
    }
  } },
  h("h2", {}, heading), h("p", { class: "soft" }, `${operationName(found.operation)} · attempt ${found.attempt} · `, h("span", { class: "mono" }, found.id.slice(0, 12))),
  asked, wrong, buttons);
  const dialog = h("dialog", { "aria-label": heading, onclose: () => dialog.remove() }, form);
  const ask = () => {
    isConfirmed = false;
    asked.hidden = false;
    show(buttons, cancel(), sure);
  };
  // What was asked stays in the form, and is sent with the confirmation.
  const confirmRevocation = () => {
    const confirmation = revocation(found);
    const back = h("button", { type: "button", onclick: () => { confirmation.remove(); wrong.textContent = ""; ask(); } }, "Back");
    isConfirmed = true;
    asked.hidden = true;
    asked.after(confirmation);
    show(buttons, back, h("button", { type: "submit", class: "danger sure" }, `Take the lease from attempt ${found.attempt}`));
    confirmation.querySelector("input").focus();
  };
  ask();
  document.body.append(dialog);
  dialog.showModal();
}

function revocation({ attempt }) {
  const word = `attempt ${attempt}`;
  return h("div", { class: "asked" },
    h("p", { class: "warning" }, h("strong", {}, `Attempt ${attempt} holds the lease, and its body may still be running.`), " Nothing stops the body: what it has not done yet, it may still do. Its own answer is not stored any more, and a retry can run beside it."),
    h("label", {}, `Type ${word} to take its lease away`, h("input", { name: "revoke", required: true, pattern: word, autocomplete: "off", title: word })));
}

const releaseDialog = (found, tools) => confirmDialog(found, tools, {
  heading: "Free the key",
  content: [h("p", {}, "You say that nothing happened. The client’s next retry runs the operation as a first call."),
    found.state === "running" && h("p", {}, "If the attempt lives, it takes the key again when it renews its lease before a retry comes."),
    h("p", { class: "warning" }, found.steps.length ? `Its ${found.steps.length} finished steps are forgotten, and will run again.` : "If the attempt did have an effect, it will happen twice.")],
  button: "Free the key", kind: "danger sure", path: "release", value: () => ({}), done: "The key is free.",
});

function forgetDialog(found, tools) {
  confirmDialog(found, tools, {
    heading: "Forget this record",
    content: [h("p", { class: "warning" }, "The operation was carried out. A retry with this key will carry it out again."),
      h("label", {}, "Type forget to confirm", h("input", { name: "word", required: true, pattern: "forget", autocomplete: "off", title: "forget" }))],
    button: "Forget it", kind: "danger sure", path: "forget", value: () => ({}), done: "The record is forgotten.",
  });
}

function resolveDialog(found, tools) {
  const fields = h("div", { class: "column" });
  const text = (name, label, rows, placeholder) => h("label", {}, label, h("textarea", { name, rows, placeholder, spellcheck: "false" }));
  const draw = (kind) => show(fields, kind === "response"
    ? [h("div", { class: "row" }, h("label", {}, "Status", h("input", { name: "status", type: "number", min: 200, max: 599, value: 201, required: true })),
        h("label", {}, "Content type", h("input", { name: "content-type", value: "application/json" }))),
      text("headers", "Further headers, one on each line", 2, "location: /charges/7"), text("body", "Body", 5, "{\"charge\": 7}")]
    : text("json", "JSON, as the function’s value is written", 5, "{\"charge\": 7}"));
  const choose = h("select", { name: "kind", onchange: (event) => draw(event.target.value) },
    h("option", { value: "response" }, "An HTTP handler: a response"), h("option", { value: "value" }, "A function: its value"), h("option", { value: "failure" }, "A function: its stored error"));
  draw("response");
  confirmDialog(found, tools, {
    heading: "Store what happened",
    content: [h("p", {}, "Every retry gets this answer, byte for byte, until it is forgotten. It cannot be changed afterwards."), h("label", {}, "The operation is", choose), fields,
      h("label", {}, "Keep it for", h("select", { name: "keep" }, [["", "as long as the operation keeps answers"], ["3600", "1 hour"], ["86400", "24 hours"], ["604800", "7 days"], ["2592000", "30 days"]].map(([value, label]) => h("option", { value, selected: value === "" }, label))))],
    button: "Store this answer", kind: "main", path: "resolve", done: "The answer is stored.",
    value: (given) => ({ answer: given.get("kind") === "response" ? response(given) : { kind: given.get("kind"), json: given.get("json") }, keep_for_seconds: given.get("keep") ? Number(given.get("keep")) : null }),
  });
}

function response(given) {
  const type = given.get("content-type").trim();
  const headers = type ? [["content-type", type]] : [];
  for (const line of given.get("headers").split("\n").filter((text) => text.trim())) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error("A header is a name, a colon, and a value.");
    headers.push([line.slice(0, colon).trim(), line.slice(colon + 1).trim()]);
  }
  return { kind: "response", status: Number(given.get("status")), headers, body: given.get("body") };
}
