// Bars of records by when they were claimed.

import { duration, h, moment, number, svg } from "./elements.js";

const WIDTH = 1000;
const HEIGHT = 170;
const FOOT = 20;
const SIDE = 38;

// A round number at or above the highest bar.
function ceiling(highest) {
  if (highest <= 4) return 4;
  const size = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 6, 8, 10].map((step) => step * size).find((round) => round >= highest);
}

export function bars({ states, buckets, bucket_ms: length, began_at: end }) {
  const highest = ceiling(Math.max(...buckets.map((bucket) => bucket.reduce((sum, count) => sum + count, 0))));
  const tall = HEIGHT - FOOT - 8;
  const step = (WIDTH - SIDE) / buckets.length;
  const y = (count) => 8 + tall - (count / highest) * tall;
  const drawn = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": spoken(states, buckets, length) });
  for (const part of [0, 0.5, 1]) {
    const at = y(highest * part);
    drawn.append(svg("line", { class: "grid", x1: SIDE, x2: WIDTH, y1: at, y2: at, "vector-effect": "non-scaling-stroke" }));
  }
  buckets.forEach((bucket, place) => {
    const from = end - (buckets.length - place) * length;
    const told = states.map((state, at) => bucket[at] ? `${number(bucket[at])} ${state}` : null).filter(Boolean);
    const group = svg("g", { class: "bucket" }, svg("title", {}, `${moment(from)}, ${duration(length)}: ${told.join(", ") || "none"}`));
    let ground = y(0);
    // What needs somebody stands on the ground, and is seen however few they are.
    states.forEach((state, at) => {
      if (!bucket[at]) return;
      const high = Math.max(at < 2 ? 6 : 1.5, (bucket[at] / highest) * tall);
      ground -= high;
      group.append(svg("rect", { class: state, x: SIDE + place * step + step * 0.12, width: step * 0.76, y: ground, height: high }));
    });
    group.append(svg("rect", { class: "hit", x: SIDE + place * step, width: step, y: 0, height: HEIGHT - FOOT }));
    drawn.append(group);
  });
  const labels = [[0, duration(buckets.length * length) + " ago"], [0.5, duration((buckets.length / 2) * length) + " ago"], [1, "now"]];
  return h("figure", {}, h("div", { class: "plot" }, drawn, ...marks(highest), h("div", { class: "ticks" }, labels.map(([, text]) => h("span", {}, text)))),
    h("figcaption", { class: "legend" }, states.map((state) => h("span", { class: state }, state))));
}

// Text beside the drawing, which is stretched.
const marks = (highest) => [h("span", { class: "most" }, number(highest)), h("span", { class: "half" }, number(highest / 2)), h("span", { class: "none" }, "0")];

function spoken(states, buckets, length) {
  const sums = states.map((state, at) => `${number(buckets.reduce((sum, bucket) => sum + bucket[at], 0))} ${state}`);
  return `Records claimed in the last ${duration(buckets.length * length)}: ${sums.join(", ")}`;
}

export function spark(totals) {
  const highest = Math.max(1, ...totals);
  const drawn = svg("svg", { class: "spark", viewBox: `0 0 ${totals.length * 3} 24`, preserveAspectRatio: "none", "aria-hidden": "true" });
  totals.forEach((count, place) => {
    if (!count) return;
    const high = Math.max(2, (count / highest) * 24);
    drawn.append(svg("rect", { x: place * 3, width: 2.2, y: 24 - high, height: high }));
  });
  return drawn;
}
