// Which agent is there, which is slow, since when: a list, and one agent in a drawer.

import { draw, h, text } from "./dom.js";
import { Ended, ask, follow } from "./net.js";
import { sorted, table } from "./table.js";
import { Drawer, choice, facts, section, state, toml } from "./parts.js";
import * as names from "./names.js";
import * as f from "./format.js";

export const title = "Agents";

const now = () => Date.now() / 1000;
const ORDER = ["disconnected", "unproven", "draining", "disabled", "connected"];
const SHOWN = {
  all: ["All", () => true],
  here: ["Connected", (one) => ["connected", "unproven", "draining"].includes(one.state)],
  away: ["Not connected", (one) => one.state === "disconnected"],
  off: ["Disabled", (one) => one.state === "disabled"],
};

/** How long it has been there, or gone. */
function since(one) {
  if (one.connected_since) return `up ${f.duration(now() - one.connected_since)}`;
  if (one.state === "disabled") return f.NONE;
  return one.offline_since ? `gone ${f.duration(now() - one.offline_since)}` : "never seen";
}

const failed = (one) => (one.requests ? (100 * one.failures) / one.requests : null);
const labels = (one) => Object.entries(one.labels ?? {}).map(([key, value]) => (value === "" ? key : `${key}=${value}`));

function columns(open) {
  return [
    { id: "name", label: "Agent", sort: (one) => one.name, key: (one) => `${one.id} ${one.name}`,
      make: (one) => h("a", { href: open(one.id), title: one.id }, one.name) },
    { id: "state", label: "State", sort: (one) => ORDER.indexOf(one.state), key: (one) => one.state, make: (one) => state(one.state) },
    { id: "since", label: "For", sort: (one) => (one.connected_since ? now() - one.connected_since : one.offline_since ? one.offline_since - now() : null), text: since },
    { id: "uptime", label: "Uptime", number: true, wide: true, hint: "Of the time that history is kept", sort: (one) => one.uptime_percent, text: (one) => f.percent(one.uptime_percent) },
    { id: "active", label: "Active", number: true, roomy: true, hint: "Requests at this moment", sort: (one) => one.active_requests, text: (one) => f.count(one.active_requests) },
    { id: "requests", label: "Requests", number: true, wide: true, sort: (one) => one.requests, text: (one) => f.count(one.requests) },
    { id: "failed", label: "Failed", number: true, wide: true, sort: failed, key: (one) => `${one.failures}/${one.requests}`,
      make: (one) => h("span", { class: f.many(one.failures, one.requests) ? "many" : null, title: f.plural(one.failures, "failure") }, f.failed(one.failures, one.requests)) },
    { id: "p95", label: "p95", number: true, hint: "95 of 100 requests were answered faster", sort: (one) => one.p95_millis, text: (one) => f.millis(one.p95_millis) },
    { id: "trip", label: "Round trip", number: true, wide: true, hint: "Of the tunnel's keepalive", sort: (one) => one.round_trip_millis, text: (one) => f.millis(one.round_trip_millis) },
    { id: "labels", label: "Labels", wide: true, key: (one) => labels(one).join("\n"), make: (one) => labels(one).map((words) => h("code", { class: "tag" }, words)) },
    { id: "version", label: "Version", wide: true, sort: (one) => one.version, text: (one) => one.version ?? f.NONE },
  ];
}

const bytesOf = (one) => `${f.bytes(one.received_bytes)} received, ${f.bytes(one.sent_bytes)} sent`;

function labelList(one) {
  const own = labels(one).map((words) => h("li", null, h("code", { class: "tag" }, words)));
  const system = Object.entries(one.system_labels ?? {}).map(([key, value]) =>
    h("li", null, h("code", { class: "tag system" }, `${key}=${value}`), h("span", { class: "under" }, " system")));
  return h("ul", { class: "tags" }, own, system);
}

function current(one) {
  return facts([
    ["State", state(one.state, `${one.state}, ${since(one)}`)],
    ["Uptime", one.uptime_percent === null ? null : `${f.percent(one.uptime_percent)} of the time that history is kept`],
    ["Connections", `${f.count(one.connections)} made, ${f.count(one.disconnections)} lost`],
    ["Requests", `${f.count(one.requests)}, ${f.count(one.failures)} failed, ${f.count(one.active_requests)} active`],
    ["Latency", one.p95_millis === null ? f.NONE : `p95 ${f.millis(one.p95_millis)}`],
    one.connected_since ? ["Tunnel", `${f.plural(one.streams, "stream")}, round trip ${f.millis(one.round_trip_millis)}`] : null,
    one.connected_since ? ["Transferred", bytesOf(one)] : null,
    one.cpu_percent === null && one.memory_bytes === null ? null : ["Process", `CPU ${f.percent(one.cpu_percent)}, memory ${f.bytes(one.memory_bytes)}`],
    ["Address", one.address ? h("code", null, one.address) : f.NONE],
    ["Version", one.version ?? f.NONE],
    ["Weight", f.count(one.weight)],
    one.drain ? ["Drain", "drained in the file: it gets no new requests"] : null,
  ].filter((pair) => pair && pair[1] !== null));
}

function sessions(list) {
  if (!list?.length) return h("p", { class: "empty" }, "No session since history began.");
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Sessions" }, h("table", { class: "plain-table" },
    h("caption", { class: "quiet" }, "Sessions, newest first"),
    h("thead", null, h("tr", null, ["Start", "Length", "Ended by", "From"].map((words) => h("th", { scope: "col" }, words)))),
    h("tbody", null, list.map((one) => h("tr", null,
      h("th", { scope: "row" }, f.moment(one.start)),
      h("td", null, f.duration((one.end ?? now()) - one.start)),
      h("td", null, one.end === null ? "still here" : (one.reason ?? "unknown")),
      h("td", null, h("code", null, one.address ?? f.NONE)))))));
}

function declared(one, more, address) {
  return [
    section("Labels", labelList(one)),
    more ? [
      more.targets?.length ? section("Serves", h("ul", { class: "links" }, more.targets.map(([route, target]) =>
        h("li", null, h("a", { href: address("routes", route) }, route), ` / ${target}`)))) : null,
      section("Recent sessions", sessions(more.sessions)),
      section("Setup", h("pre", { class: "toml", tabindex: "0", role: "region", "aria-label": "Setup command" }, h("code", null, more.setup)),
        h("p", { class: "under" }, "The token is shown once, by ", h("code", null, "p2pstream agents create"), " or ", h("code", null, "p2pstream agents rotate"), ".")),
      section("Declared in", h("p", { class: "under" }, h("code", null, more.where)), toml(more.toml)),
    ] : h("p", { class: "under" }, "Loading"),
    h("p", null, h("a", { href: address("traffic", null, { agent: one.id }) }, "Watch its traffic")),
  ];
}

export function mount(main, frame) {
  let all = [];
  let byId = {};
  let look = { object: null, params: {} };
  let more = null; // what is not in the live view of the agent in the drawer, once it is here
  let asked = null;

  const heading = h("h1", null, title);
  const told = h("p", { class: "told" });
  const filter = h("input", { type: "search", id: "filter", placeholder: "name, label, version …", autocomplete: "off", spellcheck: "false",
    oninput: () => change({ filter: filter.value }) });
  const states = h("div");
  const live = h("div");
  const rest = h("div");
  const drawer = new Drawer(() => frame.look(look.params, null));
  const list = table({
    caption: "Agents", name: "agents", columns: columns((id) => frame.address("agents", id, look.params)),
    id: (one) => one.id, on: { sort: sortBy },
  });

  main.replaceChildren(
    h("div", { class: "top" }, h("div", null, heading, told)),
    h("div", { class: "controls" }, h("label", { class: "field" }, h("span", null, "Filter"), filter), states),
    list.element);

  const order = () => (look.params.sort ?? "name").split(".");
  function sortBy(column) {
    const [by, way] = order();
    const first = column === "name" || column === "state" ? "up" : "down";
    const next = by === column ? (way === "down" ? "up" : "down") : first;
    change({ sort: `${column}.${next}` });
  }

  const change = (params) => frame.look({ ...look.params, ...params });

  function matches(one) {
    const wanted = (look.params.filter ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return true;
    const words = [one.name, one.id, one.version, one.address, ...labels(one)].join(" ").toLowerCase();
    return wanted.every((word) => words.includes(word));
  }

  function drawList() {
    const [by, way] = order();
    const found = all.filter(matches);
    const chosen = SHOWN[look.params.state] ? look.params.state : "all";
    draw(states, [chosen, look.params, Object.values(SHOWN).map(([, test]) => found.filter(test).length)], () =>
      choice("State", Object.entries(SHOWN).map(([id, [words, test]]) =>
        [[words, h("span", { class: "n" }, f.count(found.filter(test).length))], frame.address("agents", look.object, { ...look.params, state: id === "all" ? "" : id }), id === chosen])));
    const column = columnsById[by] ?? columnsById.name;
    const rows = sorted(found.filter(SHOWN[chosen][1]), columnsById.name, false);
    list.say(all.length ? "No agent matches." : "No agent is declared. `p2pstream agents create NAME --label site=…` makes one.");
    list.show(column.id === "name" && way !== "down" ? rows : sorted(rows, column, way === "down"), [column.id, way === "down"]);
  }
  const columnsById = Object.fromEntries(columns(() => "").map((column) => [column.id, column]));

  function drawTold() {
    const here = all.filter(SHOWN.here[1]).length;
    const active = all.reduce((sum, one) => sum + (one.active_requests ?? 0), 0);
    text(told, all.length ? `${f.count(here)} of ${f.plural(all.length, "agent")} connected, ${f.plural(active, "request")} active through them.` : "");
  }

  function drawDrawer() {
    if (look.object === null) {
      drawer.shut();
      asked = null; // whoever opens one again wants what is declared by then
      return;
    }
    if (!all.length) return; // not here yet
    const one = byId[look.object];
    drawer.open(one?.name ?? look.object, one ? h("code", null, one.id) : "");
    if (!one) {
      drawer.show(h("p", { class: "empty" }, "There is no such agent in the file."));
      return;
    }
    drawer.show(live, rest);
    // Its sessions are others when it came or went.
    const wanted = `${one.id} ${one.connections} ${one.disconnections}`;
    if (asked !== wanted) load(one.id, wanted);
    const known = more?.id === one.id ? more : null;
    draw(live, [one, Math.floor(now() / 10)], () => current(one));
    draw(rest, [one.id, one.labels, known], () => declared(one, known, frame.address));
  }

  async function load(id, wanted) {
    asked = wanted;
    try {
      const found = await ask(`agents/${encodeURIComponent(id)}`);
      if (asked !== wanted) return;
      more = found;
      drawDrawer();
    } catch (error) {
      if (error instanceof Ended) frame.ended();
      else if (asked === wanted) asked = null;
    }
  }

  const stop = follow("live?view=agents", {
    state: frame.state,
    ended: frame.ended,
    show(view) {
      byId = view.agents;
      all = Object.values(byId);
      names.learn(byId);
      drawTold();
      drawList();
      drawDrawer();
    },
  });

  return {
    show(next) {
      look = next;
      if (filter.value !== (look.params.filter ?? "") && document.activeElement !== filter) filter.value = look.params.filter ?? "";
      if (all.length) drawList();
      drawDrawer();
    },
    tick() {
      if (!all.length) return;
      drawList();
      drawDrawer();
    },
    close() {
      stop();
      list.close();
      look = { object: null, params: {} };
      drawer.shut();
    },
  };
}
