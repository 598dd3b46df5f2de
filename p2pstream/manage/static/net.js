// The API and the live views. Every URL is relative to the page, so a base path needs no word.

const at = (path) => new URL(`api/v1/${path}`, document.baseURI);

/** The session is over: the page goes to the login. */
export class Ended extends Error {}
/** The server said no, and why. */
export class Refused extends Error {
  constructor(message, status, after = null) {
    super(message);
    this.status = status;
    this.after = after; // seconds until asking again makes sense
  }
}

/** Asks the API. Errors: Ended, Refused, TypeError when nobody answers. */
export async function ask(path, body) {
  const request = { credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    request.method = "POST";
    request.headers = { "content-type": "application/json" };
    request.body = JSON.stringify(body);
  }
  const response = await fetch(at(path), request);
  if (response.ok) return response.status === 204 ? null : response.json();
  if (response.status === 401 && path !== "login") throw new Ended("the session is over");
  throw await refused(response);
}

async function refused(response) {
  const said = await response.text();
  let reason = said.trim();
  try {
    reason = JSON.parse(said).faults.join("\n");
  } catch {
    // Plain text it is.
  }
  const after = Number(response.headers.get("retry-after")) || null;
  return new Refused(reason || `The server answered ${response.status}.`, response.status, after);
}

export const query = (values) => {
  const set = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return new URLSearchParams(set).toString();
};

/** Applies a JSON Merge Patch (RFC 7396) in place; returns the value. */
export function merge(value, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const into = value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
  for (const [key, change] of Object.entries(patch)) {
    // No id begins so; whoever sends it wants something else.
    if (key === "__proto__") continue;
    if (change === null) delete into[key];
    else into[key] = merge(into[key], change);
  }
  return into;
}

const FIRST_MILLIS = 500;
const LONGEST_MILLIS = 15_000;

/**
 * A WebSocket that comes back by itself. `on` is told of
 *   message(value)      each message, parsed
 *   state(name)         "connecting", "live", "lost", "refused" (the server is there, and will not)
 *   ended()             the session is over
 * Returns a function that closes it for good.
 */
export function stay(path, on) {
  let socket = null;
  let timer = 0;
  let wait = FIRST_MILLIS;
  let over = false;

  function open() {
    clearTimeout(timer);
    const url = at(path);
    url.protocol = url.protocol.replace("http", "ws");
    const mine = new WebSocket(url);
    let opened = false;
    socket = mine;
    mine.onmessage = (event) => {
      if (socket !== mine) return;
      wait = FIRST_MILLIS; // it works, and not only the handshake
      on.message(JSON.parse(event.data));
    };
    mine.onopen = () => {
      opened = true;
      if (socket === mine) on.state("live");
    };
    mine.onclose = () => socket === mine && lost(opened);
  }

  async function lost(opened) {
    socket = null;
    if (opened) on.state("lost");
    try {
      const session = await ask("session");
      if (over) return;
      if (!opened) on.state("refused"); // it answers, but not to this
      if (!session.authenticated) {
        close();
        on.ended();
        return;
      }
    } catch {
      on.state("lost"); // nobody answers: go on trying
    }
    if (over) return;
    timer = setTimeout(open, wait * (0.8 + 0.4 * Math.random()));
    wait = Math.min(wait * 2, LONGEST_MILLIS);
  }

  function now() {
    if (over || socket || document.hidden) return;
    wait = FIRST_MILLIS;
    open();
  }

  function close() {
    over = true;
    clearTimeout(timer);
    removeEventListener("online", now);
    document.removeEventListener("visibilitychange", now);
    const last = socket;
    socket = null;
    // Closing one that is not open yet is an error on the console.
    if (last?.readyState === WebSocket.CONNECTING) last.onopen = () => last.close();
    else last?.close();
  }

  addEventListener("online", now);
  document.addEventListener("visibilitychange", now);
  on.state("connecting");
  open();
  return close;
}

/** A live view: whole once, then patches. `show(view)` after each; see `stay` for the rest. */
export function follow(path, { show, state, ended }) {
  let view = null;
  return stay(path, {
    state,
    ended,
    message(message) {
      if (message.type === "whole") view = message.view;
      else if (message.type === "patch" && view) view = merge(view, message.patch);
      if (view) show(view);
    },
  });
}
