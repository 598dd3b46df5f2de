// A request drawn as its way: listener, route, target, agent, origin, answer. Used by explain for
// where it would go, and by the traffic page for where it went.

import { h, s } from "./dom.js";

/** hops: [[kind, words, level?], …]; drawn in one line, in order. */
export function way(hops) {
  const drawn = [];
  hops.forEach(([kind, words, level], index) => {
    if (index) drawn.push(s("svg", { class: "arrow", viewBox: "0 0 8 8", "aria-hidden": "true" }, s("path", { d: "M2.500 1 5.500 4l-3 3" })));
    drawn.push(h("span", { class: `hop hop-${kind} ${level ?? ""}` }, h("span", { class: "quiet" }, `${kind} `), words));
  });
  return h("span", { class: "way" }, drawn);
}

/** The same, downwards, each with what is known of it: [[kind, words, time, notes, level], …] */
export function steps(hops) {
  return h("ol", { class: "steps" }, hops.map(([kind, words, time, notes, level]) =>
    h("li", { class: level ?? null },
      h("div", { class: "step" }, h("span", { class: "kind" }, kind), h("b", null, words), h("span", { class: "time number" }, time ?? "")),
      notes?.length ? h("div", { class: "notes" }, notes) : null)));
}
