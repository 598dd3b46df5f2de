// Requests as they happen, each as its way through the server. Tracing runs while this page is
// open and not paused: closed or paused it costs the server nothing.

import { draw, h, s, text } from "./dom.js";
import { query, stay } from "./net.js";
import { table } from "./table.js";
import { Drawer, because, facts, section } from "./parts.js";
import { steps, way } from "./journey.js";
import * as names from "./names.js";
import * as f from "./format.js";

export const title = "Traffic";

const KEEP = 500; // requests; older ones leave at the end of the list
const DRAW_MILLIS = 250; // faster than this nobody reads
const LEVELS = [["basic", "basic"], ["detailed", "detailed"], ["headers", "headers"], ["debug", "debug"]];
const FILTERS = [["listener", "Listener", "public"], ["route", "Route", "media"], ["host", "Host", "app.example.com"],
  ["path_prefix", "Path prefix", "/api", "/.*"], ["agent", "Agent", "name or id"], ["status", "Status", "502 or 5xx", "[1-5](xx|[0-9]{2})"]];

/** Takes an event into its request. Pure but for `one`. */
export function take(one, event) {
  one.events.push(event);
  const { stage } = event;
  if (stage === "received") Object.assign(one, { method: event.method, host: event.host, path: event.path, client: event.client, listener: event.listener, at: event.at });
  else if (stage === "route_resolved") one.route = event.route;
  else if (stage === "target_selected") Object.assign(one, { target: event.target, transport: event.transport, agent: null, attempt: event.attempt });
  else if (stage === "agent_selected") one.agent = event.agent;
  else if (stage === "upstream_started") Object.assign(one, { origin: event.origin, started: event.millis });
  else if (stage === "upstream_responded") Object.assign(one, { status: event.status, responded: event.millis });
  else if (stage === "response_sent") Object.assign(one, { status: event.status, ended: event.millis, bytes_in: event.bytes_in, bytes_out: event.bytes_out });
  else if (stage === "failed") Object.assign(one, { status: event.status ?? one.status, error_kind: event.error_kind, why: event.why, ended: event.millis });
  return one;
}

const level = (one) => {
  if (one.error_kind && one.error_kind !== "client_cancelled") return one.status < 500 && one.status >= 400 ? "warn" : "bad";
  if (one.status >= 500) return "bad";
  return one.status >= 400 ? "warn" : one.ended === undefined ? "idle" : "good";
};
const answer = (one) => (one.status ? `${one.status}` : one.ended === undefined ? "…" : "cut");

function hops(one) {
  const found = [["listener", one.listener]];
  if (one.route) found.push(["route", one.route]);
  if (one.target) found.push(["target", one.target]);
  if (one.agent) found.push(["agent", names.agent(one.agent)]);
  if (one.origin) found.push(["origin", one.origin.replace(/^http:\/\//, "")]);
  found.push(["answer", one.error_kind ? `${answer(one)} ${one.error_kind}` : answer(one), level(one)]);
  return found.filter(([, words]) => words);
}

const KEY = [["connect", "choosing, connecting"], ["wait", "waiting for the origin"], ["body", "passing on the answer"]];
const key = () => h("p", { class: "under times-key" }, KEY.map(([name, words]) =>
  h("span", null, s("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, s("rect", { class: name, width: 20, height: 8 })), words)));

/** Where the time went: choosing and connecting, waiting for the origin, moving the body. */
function times(one, longest) {
  const end = one.ended ?? one.responded ?? one.started ?? 0;
  const marks = [["connect", 0, one.started ?? end], ["wait", one.started ?? end, one.responded ?? end], ["body", one.responded ?? end, end]];
  return s("svg", { class: "times-of", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    marks.filter(([, from, to]) => to > from).map(([name, from, to]) => {
      const x = (100 * from) / longest;
      return s("rect", { class: name, x: x.toFixed(2), y: 0, height: 8, width: Math.max(0.8, (100 * (to - from)) / longest).toFixed(2) });
    }));
}

const COLUMNS = (open, longest) => [
  { id: "request", label: "Request", key: (one) => one.id, make: (one) => h("a", { href: open(one.id) }, h("b", null, one.method ?? ""), ` ${one.host ?? ""}${one.path ?? ""}`) },
  { id: "at", label: "Time", wide: true, text: (one) => f.clock(one.at) },
  { id: "way", label: "Way", hint: "listener, route, target, agent, origin, answer", key: (one) => JSON.stringify(hops(one)), make: (one) => way(hops(one)) },
  { id: "took", label: "Took", number: true, text: (one) => f.millis(one.ended) },
  { id: "bars", label: "Where the time went", wide: true, key: (one) => `${one.started} ${one.responded} ${one.ended} ${longest()}`, make: (one) => times(one, longest()) },
];

const WORDS = { received: "listener", route_resolved: "route", target_selected: "target", agent_selected: "agent",
  upstream_started: "origin", upstream_responded: "its answer", response_sent: "answer", failed: "failed" };

function notes(event) {
  const found = [];
  const note = (...words) => found.push(h("p", null, words));
  if (event.stage === "received") note(`from ${event.client ?? "unknown"}`);
  if (event.transport) note(`${event.transport}, group ${event.priority_group ?? 0}${event.attempt > 1 ? `, attempt ${event.attempt}` : ""}`);
  if (event.reused !== undefined) note(event.reused ? "on a kept-alive connection" : `on a new connection, made in ${f.millis(event.connect_millis)}`);
  if (event.bytes_out !== undefined && event.bytes_out !== null) note(`${f.bytes(event.bytes_in)} in, ${f.bytes(event.bytes_out)} out`);
  if (event.why) note(event.why);
  for (const one of event.considered ?? []) note("passed over ", h("code", null, one.route), `: ${one.why}`);
  for (const one of event.skipped ?? []) note("skipped ", h("code", null, one.target), one.agent ? ` through ${names.agent(one.agent)}` : "", `: ${because(one.reason)}`);
  if (event.headers?.length) {
    found.push(h("details", null, h("summary", null, `${event.headers.length} header fields`),
      h("dl", { class: "fields" }, event.headers.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", { class: value === "[redacted]" ? "under" : null }, value))))));
  }
  return found;
}

function step(event, one) {
  const words = {
    received: event.listener, route_resolved: event.route ?? "none", target_selected: event.target, agent_selected: event.agent && names.agent(event.agent),
    upstream_started: event.origin, upstream_responded: event.status, response_sent: event.status, failed: event.error_kind,
  }[event.stage] ?? event.stage;
  const sort = ["failed", "response_sent", "upstream_responded"].includes(event.stage) ? level(one) : null;
  return [WORDS[event.stage] ?? event.stage, String(words ?? ""), `+${f.millis(event.millis ?? 0)}`, notes(event), sort];
}

function detail(one, address) {
  const url = `http://${one.host ?? ""}${one.path ?? ""}`;
  return [
    facts([
      ["Request", h("code", null, `${one.method ?? ""} ${one.host ?? ""}${one.path ?? ""}`)],
      ["Id", h("code", null, one.id)],
      ["Time", f.clock(one.at)],
      ["Answer", h("span", { class: `state ${level(one)}` }, one.error_kind ? `${answer(one)} ${one.error_kind}` : answer(one))],
      ["Took", `${f.millis(one.ended)}`],
    ]),
    section("Its way", steps(one.events.map((event) => step(event, one)))),
    h("p", { class: "links-row" },
      one.route ? h("a", { href: address("routes", one.route) }, "The route") : null,
      one.agent ? h("a", { href: address("agents", one.agent) }, "The agent") : null,
      one.host ? h("a", { href: address("routes", null, { method: one.method, url, on: one.listener }) }, "Explain it now") : null),
  ];
}

export function mount(main, frame) {
  let requests = []; // newest first
  let byId = new Map();
  let look = { object: null, params: {} };
  let stop = null;
  let dropped = 0;
  let seen = 0;
  let traced = null; // what the open socket asks for
  let paused = false;
  let due = 0;
  let longest = 1;
  let refused = false;
  let shown = []; // what the list holds: all of them, or, while somebody reads further down, as it was

  const told = h("p", { class: "told" });
  const lost = h("p", { class: "under lost" });
  const pause = h("button", { type: "button", onclick: () => turn(!paused) }, "Pause");
  const clear = h("button", { type: "button", onclick: empty }, "Clear");
  const levels = h("select", { id: "level", onchange: change }, LEVELS.map(([value, words]) => h("option", { value }, words)));
  const fields = FILTERS.map(([name, label, hint, pattern]) => [name, label, h("input", { id: `by-${name}`, name, placeholder: hint, pattern, title: pattern ? `such as ${hint}` : null, autocomplete: "off", autocapitalize: "none", spellcheck: "false", onchange: change })]);
  const more = h("details", { class: "filters" }, h("summary", null, h("span", null, "Filters"), h("span", { class: "n" })), h("form", { class: "line", onsubmit: (event) => { event.preventDefault(); change(); } },
    fields.map(([, label, input]) => h("label", { class: "field" }, h("span", null, label), input)),
    h("button", { type: "submit" }, "Apply"),
    h("button", { type: "button", class: "plain", onclick: reset }, "Reset")));
  const shownOne = h("div");
  const drawer = new Drawer(() => frame.look(look.params, null));
  const list = table({ caption: "Requests, newest first", name: "traffic", id: (one) => one.id,
    columns: COLUMNS((id) => frame.address("traffic", id, look.params), () => longest) });

  main.replaceChildren(
    h("div", { class: "top" }, h("div", null, h("h1", null, title), told)),
    h("div", { class: "controls" }, h("label", { class: "field" }, h("span", null, "Level"), levels), pause, clear, lost, key()),
    more,
    list.element);

  const asks = () => query({ level: LEVELS.some(([id]) => id === look.params.level) ? look.params.level : "basic",
    ...Object.fromEntries(FILTERS.map(([name]) => [name, look.params[name]])), agent: names.id(look.params.agent) });

  function change() {
    if (!more.querySelector("form").reportValidity()) return;
    frame.look({ ...look.params, level: levels.value === "basic" ? "" : levels.value, ...Object.fromEntries(fields.map(([name, , input]) => [name, input.value.trim()])) });
  }

  function reset() {
    for (const [, , input] of fields) input.value = "";
    change();
  }

  function empty() {
    requests = [];
    byId = new Map();
    dropped = 0;
    seen = 0;
    longest = 1;
    render();
  }

  function turn(off) {
    paused = off;
    text(pause, paused ? "Resume" : "Pause");
    if (paused) {
      stop?.();
      stop = null;
      frame.state("paused");
    } else {
      listen();
    }
    render();
  }

  function listen() {
    stop?.();
    traced = asks();
    stop = stay(`trace?${traced}`, {
      ended: frame.ended,
      message,
      state(name) {
        refused = name === "refused";
        frame.state(name);
        render();
      },
    });
  }

  function message({ events, dropped: gone }) {
    dropped += gone ?? 0;
    for (const event of events ?? []) {
      let one = byId.get(event.id);
      if (!one) {
        one = { id: event.id, at: event.at, events: [] };
        byId.set(event.id, one);
        requests.unshift(one);
        seen += 1;
      }
      take(one, event);
      if (one.ended > longest) longest = one.ended;
    }
    while (requests.length > KEEP) byId.delete(requests.pop().id);
    due ||= setTimeout(render, DRAW_MILLIS);
  }

  function render() {
    clearTimeout(due);
    due = 0;
    list.say(paused ? "Paused. Tracing is off." : refused ? "The server does not take this: a filter may be misspelt, or too many people watch already."
      : "Waiting for the next request.");
    const held = list.isScrolled() && shown.length > 0 && requests.length > 0;
    if (!held) shown = [...requests];
    list.show(shown);
    const how = held ? "; the list holds still until you scroll up" : seen > KEEP ? `, the last ${KEEP} shown` : "";
    text(told, paused ? "Paused: tracing is off and costs nothing." : `${f.plural(seen, "request")} seen${how}.`);
    text(lost, dropped ? `${f.plural(dropped, "request")} left out: more came than could be told` : "");
    clear.disabled = !requests.length;
    drawDrawer();
  }

  function drawDrawer() {
    if (look.object === null) {
      drawer.shut();
      return;
    }
    const one = byId.get(look.object) ?? shown.find(({ id }) => id === look.object);
    if (one) {
      drawer.open(`${one.method ?? "Request"} ${one.path ?? ""}`, one.host ?? "");
      drawer.show(shownOne);
      // Header fields that are open stay so.
      if (!shownOne.contains(document.activeElement)) draw(shownOne, `${one.id} ${one.events.length}`, () => detail(one, frame.address));
    } else if (!drawer.isOpen) {
      drawer.open("Request", h("code", null, look.object));
      drawer.show(h("p", { class: "empty" }, "This request is no longer in the list."));
    }
  }

  names.refresh(() => (!paused && traced !== asks() ? listen() : render()));
  return {
    show(next) {
      look = next;
      if (document.activeElement !== levels) levels.value = LEVELS.some(([id]) => id === look.params.level) ? look.params.level : "basic";
      const set = fields.filter(([name]) => look.params[name]).length;
      for (const [name, , input] of fields) if (document.activeElement !== input) input.value = look.params[name] ?? "";
      text(more.firstChild.lastChild, set || "");
      if (set) more.open = true;
      if (!paused && asks() !== traced) {
        if (traced !== null) empty();
        listen();
      }
      render();
    },
    close() {
      stop?.();
      clearTimeout(due);
      list.close();
      look = { object: null, params: {} };
      drawer.shut();
    },
  };
}
