// What the server did, as it happens.

import { element } from "./shop.js";

const find = (id) => document.querySelector(`#${id}`);
const SAYS = {
  executed: ["good", "the handler runs"],
  stored: ["good", "its answer is stored"],
  replayed: ["again", "the stored answer was given back"],
  waited: ["again", "waited, and got the first one’s answer"],
  in_flight: ["wait", "refused: the first one still runs"],
  mismatch: ["bad", "refused: the key is another payment’s"],
  crashed: ["bad", "crashed: nobody knows how far it came"],
  outcome_unknown: ["wait", "refused until somebody has looked"],
  released: ["", "nothing happened: the key is free"],
};
const sums = { executed: 0, replayed: 0, refused: 0 };
const COUNTED = { executed: "executed", replayed: "replayed", waited: "replayed", in_flight: "refused", mismatch: "refused", outcome_unknown: "refused" };

function add({ what, attempt, record }) {
  const [kind, text] = SAYS[what] ?? ["", ""];
  const line = document.createElement("li");
  line.append(element("span", `badge ${kind}`, what.replaceAll("_", " ")), element("span", "what", attempt > 1 ? `${text} (attempt ${attempt})` : text));
  if (record) {
    const link = element("a", "id", record.slice(0, 8));
    link.href = `/idem#/record/${record}`;
    link.title = "the record in the dashboard";
    line.append(link);
    if (what === "crashed") find("resolve").href = link.href;
  }
  find("feed").prepend(line);
  while (find("feed").childElementCount > 100) find("feed").lastElementChild.remove();
  const counted = COUNTED[what];
  if (counted) find(counted).textContent = sums[counted] += 1;
}

let last = 0;
for (;;) {
  try {
    const { newest, entries } = await (await fetch(`/feed/${last}`)).json();
    entries.forEach(add);
    last = newest;
  } catch {
    await new Promise((done) => setTimeout(done, 1000));
  }
}
