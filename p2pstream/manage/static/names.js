// Agents' names by id, for pages that are told ids only.

import { ask } from "./net.js";

const KEEP_MILLIS = 60_000;
let known = new Map();
let asked = -Infinity;

export const agent = (id) => known.get(id) ?? id;

/** The id of what may be an agent's id or its name. */
export const id = (words) => [...known].find(([, name]) => name === words)?.[0] ?? words;

/** Learns of view.agents, or asks for it if that was long ago; then calls `done`. */
export async function refresh(done) {
  if (performance.now() - asked < KEEP_MILLIS) return;
  asked = performance.now();
  try {
    learn((await ask("agents")).agents);
    done();
  } catch {
    asked = -Infinity; // ids do, until it answers
  }
}

export function learn(agents) {
  known = new Map(Object.entries(agents).map(([id, one]) => [id, one.name]));
}
