// One key for each intended operation, kept over retries, reloads and crashes of the page.
//
// An operation is in `localStorage` before it is first sent, and stays there until its answer is final.
// `resume` goes on with what an earlier page has left. Uses: fetch, crypto.randomUUID (https or
// localhost), AbortSignal.timeout.

const PREFIX = "outbox:";
// Less than servers keep keys: a later try could carry the operation out again.
const KEYS_LAST = 23 * 60 * 60 * 1000;
const NEVER_EXECUTED = [408, 425, 429];
const KINDS = [
  "key-missing", "key-invalid", "scope-invalid", "body-unreadable", "body-too-large", "mismatch",
  "in-flight", "outcome-unknown", "not-replayable", "undecodable", "crashed", "commit-refused",
  "misconfigured", "store-unavailable", "deadline-exceeded", "unsettled",
];

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Outbox {
  constructor({ storage = globalThis.localStorage, deadline = 120_000, tryTimeout = 30_000, backoff = [250, 10_000] } = {}) {
    Object.assign(this, { storage, deadline, tryTimeout, backoff, running: new Map() });
  }

  // Sends a JSON body until there is an outcome. `name` is what the person means to do, such as the
  // cart's number: a second click, and a click after a reload, is the same operation.
  //
  // { outcome: "answered", response, body, tries, replayed }  the operation's own answer, good or bad
  // { outcome: "refused", … }                                 not carried out, and never will be so
  // { outcome: "unknown", name, tries }                       say "we do not know yet", not "it failed"
  send(name, url, value) {
    const body = JSON.stringify(value);
    let operation = this.#read(name);
    if (operation && (operation.url !== url || operation.body !== body)) {
      throw new Error("the outbox has another request under this name; resume it first");
    }
    const resumed = operation !== null;
    if (!resumed) {
      operation = { key: crypto.randomUUID(), url, body, at: Date.now() };
      this.storage.setItem(PREFIX + name, JSON.stringify(operation)); // before the first byte is sent
    }
    return this.#run(name, operation, resumed);
  }

  // What earlier pages have left: a list of [name, promise of an outcome].
  resume() {
    return this.pending().map((name) => [name, this.#run(name, this.#read(name), true)]);
  }

  pending() {
    const names = Array.from({ length: this.storage.length }, (_, at) => this.storage.key(at));
    return names.filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));
  }

  // For a person who has found out what became of it.
  forget(name) {
    this.storage.removeItem(PREFIX + name);
  }

  #read(name) {
    const text = this.storage.getItem(PREFIX + name);
    return text === null ? null : JSON.parse(text);
  }

  // One run for each operation of a page.
  #run(name, operation, resumed) {
    if (!this.running.has(name)) {
      const run = this.#settle(name, operation, resumed).finally(() => this.running.delete(name));
      this.running.set(name, run);
    }
    return this.running.get(name);
  }

  async #settle(name, operation, resumed) {
    const begun = Date.now();
    let mayHaveExecuted = resumed;
    let tries = 0;
    const unknown = () => ({ outcome: "unknown", name, tries });
    if (begun - operation.at >= KEYS_LAST) return unknown();
    for (;;) {
      tries += 1;
      let retryAfter = 0;
      try {
        const answer = await this.#try(operation, begun + this.deadline - Date.now());
        const verdict = judge(answer, mayHaveExecuted);
        if (verdict === "answered" || verdict === "refused") {
          this.forget(name);
          return { outcome: verdict, tries, ...answer };
        }
        if (verdict === "unknown") return unknown();
        mayHaveExecuted ||= !NEVER_EXECUTED.includes(answer.response.status) && answer.kind !== "store-unavailable";
        retryAfter = secondsOf(answer.response.headers.get("retry-after"));
      } catch {
        mayHaveExecuted = true; // A page cannot tell whether anything was sent.
      }
      const [first, last] = this.backoff;
      const wait = retryAfter + Math.random() * Math.min(last, first * 2 ** (tries - 1));
      if (Date.now() + wait >= begun + this.deadline) return unknown();
      await sleep(wait);
    }
  }

  // One try: the same key and the same bytes. An answer counts when its body is whole.
  async #try({ key, url, body }, left) {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": `"${key}"` },
      body,
      signal: AbortSignal.timeout(Math.max(1, Math.min(this.tryTimeout, left))),
    });
    const text = await response.text();
    const replayed = response.headers.get("idempotent-replayed") === "true";
    return { response, body: text, replayed, ...problemOf(response, text) };
  }
}

// The same table as `idem_client::Policy::judge`.
export function judge({ response, replayed, kind, retryable }, mayHaveExecuted) {
  const { status, headers } = response;
  if (status < 400 || replayed) return "answered";
  const mayChange = [408, 409, 425, 429].includes(status) || status >= 500;
  switch (kind) {
    case "in-flight": case "unsettled": case "crashed": case "deadline-exceeded":
      return mayChange && retryable !== false ? "retry" : "unknown";
    case "store-unavailable":
      if (mayChange && retryable !== false) return "retry";
      return mayHaveExecuted ? "unknown" : "refused";
    case "outcome-unknown": case "not-replayable": case "undecodable":
      return "unknown";
    case undefined:
      break;
    default:
      return mayHaveExecuted ? "unknown" : "refused";
  }
  if ([401, 407].includes(status) && mayHaveExecuted) return "unknown";
  if (!mayChange) return "answered";
  const hint = retryable ?? hintOf(headers);
  if (hint !== undefined) return hint ? "retry" : "answered";
  if (status === 409) return mayHaveExecuted || headers.has("retry-after") ? "retry" : "answered";
  return [501, 505].includes(status) ? "answered" : "retry";
}

function hintOf(headers) {
  const hint = headers.get("stripe-should-retry") ?? headers.get("x-should-retry");
  return { true: true, false: false }[hint?.toLowerCase()];
}

function problemOf(response, text) {
  if (!/^application\/problem\+json\s*(;|$)/i.test(response.headers.get("content-type") ?? "")) return {};
  try {
    const { type, retryable } = JSON.parse(text) ?? {};
    const [, word] = /^urn:idem:problem:(.+)$/.exec(type) ?? [];
    return {
      kind: KINDS.includes(word) ? word : undefined,
      retryable: typeof retryable === "boolean" ? retryable : undefined,
    };
  } catch {
    return {};
  }
}

function secondsOf(retryAfter) {
  if (retryAfter === null) return 0;
  if (/^\d+$/.test(retryAfter)) return Number(retryAfter) * 1000;
  return Math.max(0, Date.parse(retryAfter) - Date.now()) || 0;
}
