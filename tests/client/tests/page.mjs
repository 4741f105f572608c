// A page without a browser: `node page.mjs STORAGE send URL`, `resume`, or `judge`. Its storage is a file.
import { readFileSync, writeFileSync, existsSync } from "node:fs";
import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto;
const [, , file, act, url] = process.argv;
const { Outbox, judge } = await import(process.env.OUTBOX_JS);


if (act === "judge") {
  // A case for each line of the file, a verdict for each.
  const verdicts = [];
  for (const line of readFileSync(file, "utf8").trim().split("\n")) {
    const { status, headers, replayed, kind, retryable, after } = JSON.parse(line);
    const problem = { kind: kind ?? undefined, retryable: retryable ?? undefined };
    const response = { status, headers: new Headers(headers) };
    verdicts.push(`${judge({ response, replayed, ...problem }, after)}\n`);
  }
  // An exit does not wait for a pipe that is full.
  await new Promise((written) => process.stdout.write(verdicts.join(""), written));
  process.exit();
}
const kept = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
const keep = () => writeFileSync(file, JSON.stringify(kept));
const storage = {
  get length() { return Object.keys(kept).length; },
  key: (at) => Object.keys(kept)[at] ?? null,
  getItem: (name) => kept[name] ?? null,
  setItem: (name, value) => { kept[name] = String(value); keep(); },
  removeItem: (name) => { delete kept[name]; keep(); },
};
const deadline = Number(process.env.DEADLINE ?? 60_000);
const outbox = new Outbox({ storage, deadline, tryTimeout: 5_000, backoff: [1, 20] });

const shown = async (run) => {
  const { outcome, tries, replayed, response } = await run;
  console.log(outcome, response?.status ?? "-", replayed ? "replayed" : "first", tries);
};
if (act === "send") {
  // A double click.
  await Promise.all([1, 2].map(() => shown(outbox.send("cart-1", url, 5))));
} else {
  for (const [, run] of outbox.resume()) await shown(run);
}
console.log("left", outbox.pending().length);
