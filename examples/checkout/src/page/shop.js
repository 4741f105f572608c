// The shop: pays through the outbox, and breaks its network when it is asked to.

import { Outbox } from "./outbox.js";

const find = (id) => document.querySelector(`#${id}`);
const status = find("status");

// Between the outbox and the network, which this page may break once.
const network = { loseNext: false, crashNext: false, lastKey: null };
const reach = globalThis.fetch.bind(globalThis);
globalThis.fetch = async (url, options = {}) => {
  if (options.method !== "POST") return reach(url, options);
  const key = options.headers["idempotency-key"];
  network.lastKey = key;
  const lose = network.loseNext;
  network.loseNext = false;
  const crash = network.crashNext;
  network.crashNext = false;
  const line = tried(key, JSON.parse(options.body).amount);
  const response = await reach(url, crash ? { ...options, headers: { ...options.headers, "x-demo-crash": "1" } } : options);
  if (lose) {
    line("lost", "the answer never arrived", "bad");
    throw new TypeError("the answer was lost");
  }
  const replayed = response.headers.get("idempotent-replayed") === "true";
  if (replayed) line(response.status, "replayed: the stored answer", "again");
  else if (response.ok) line(response.status, "the first answer", "good");
  else line(response.status, { 409: "refused", 422: "refused: another payment", 500: "crashed" }[response.status] ?? "refused", "wait");
  return response;
};

function tried(key, amount) {
  const badge = element("span", "badge", "sent");
  const what = element("span", "what", `${amount} cents`);
  const line = document.createElement("li");
  line.append(badge, what, element("span", "id", key.replaceAll('"', "").slice(0, 8)));
  find("tries").prepend(line);
  return (code, text, kind) => {
    badge.textContent = code;
    badge.className = `badge ${kind}`;
    what.textContent = `${amount} cents: ${text}`;
  };
}

export function element(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

function say(text, kind = "") {
  status.textContent = text;
  status.className = kind;
}

const outbox = new Outbox();
const amount = () => Number(new FormData(find("pay")).get("amount"));
const order = () => ({ amount: amount(), currency: "eur" });

// The cart is what the person means to pay. A new one begins when this one is paid.
const cart = () => localStorage.cart ??= crypto.randomUUID();

async function show(name, run) {
  say("Paying…", "wait");
  find("unknown").hidden = true;
  const end = await run;
  if (end.outcome === "unknown") {
    say("We do not know yet whether this was paid. Nothing is charged again until somebody has looked.", "wait");
    find("unknown").hidden = false;
    return;
  }
  if (name === localStorage.cart) localStorage.removeItem("cart");
  const paid = end.tries > 1 ? `Paid once, after ${end.tries} tries.` : "Paid once.";
  if (end.response.ok) say(end.replayed ? `${paid} The last answer came from the record: nothing was charged again.` : paid, "good");
  else say(`Not paid: ${end.body}`, "bad");
  await charges();
}

function pay(through = outbox) {
  try {
    const name = cart();
    return show(name, through.send(name, "/charges", order()));
  } catch (error) {
    say(`Not sent: ${error.message}`, "bad");
  }
}

async function charges() {
  const taken = await (await reach("/charges")).json();
  const lines = taken.map(({ id, amount: cents, currency }) => {
    const line = document.createElement("li");
    line.append(element("span", "badge good", `charge ${id}`), element("span", "what", `${cents} cents`), element("span", "id", currency));
    return line;
  });
  find("charges").replaceChildren(...lines.reverse());
  const total = taken.reduce((sum, { amount: cents }) => sum + cents, 0);
  find("total").textContent = `${taken.length} charges, ${total} cents`;
}

find("pay").addEventListener("submit", (event) => {
  event.preventDefault();
  pay();
});

// Two tabs have one storage, and one cart in it: both send its key.
find("twice").addEventListener("click", () => {
  pay(new Outbox());
  pay(new Outbox());
});

find("lose").addEventListener("click", () => {
  network.loseNext = true;
  pay();
});

find("change").addEventListener("click", async () => {
  await pay();
  const body = JSON.stringify({ ...order(), amount: amount() + 1 });
  const headers = { "content-type": "application/json", "idempotency-key": network.lastKey };
  const answer = await fetch("/charges", { method: "POST", headers, body });
  const { title } = await answer.json();
  say(`Refused with ${answer.status}: ${title}`, "bad");
});

find("crash").addEventListener("click", async () => {
  network.crashNext = true;
  await pay();
  await charges();
});

find("ask").addEventListener("click", () => outbox.resume().forEach(([name, run]) => show(name, run)));

charges();
for (const [name, run] of outbox.resume()) show(name, run);
