// What is matched in which order, where it goes, and how well its targets are.

import { draw, h, s, text } from "./dom.js";
import { Ended, ask, follow } from "./net.js";
import { table } from "./table.js";
import { Drawer, because, choice, facts, section, sign, state, toml } from "./parts.js";
import { explainer } from "./explain.js";
import * as names from "./names.js";
import * as f from "./format.js";

export const title = "Routes";

const MOST_PATHS = 50;

const matchOf = (one) => (one.is_default ? "everything else" : `${one.host_pattern ?? ""}${one.path_prefix ?? ""}` || "everything");
const redirectOf = (one) => {
  const to = one.redirect;
  if (to === null || typeof to !== "object") return String(to ?? "");
  return `${to.status_code ?? to.status ?? ""} ${to.target ?? to.location ?? ""}`.trim();
};
const usable = (target) => target.unusable === null || target.unusable === undefined || target.unusable === "other_group";

/** How a route is: [level, words]. Pure. */
export function condition(one) {
  if (!one.enabled) return ["idle", "disabled"];
  if (one.action === "redirect") return ["good", "redirects"];
  if (one.serving_group === null) return ["bad", "no usable target"];
  const first = Math.min(...one.targets.map((target) => target.priority_group));
  if (one.serving_group > first) return ["warn", `group ${one.serving_group} stands in`];
  const down = one.targets.filter((target) => !usable(target) && target.unusable !== "disabled");
  if (down.length) return ["warn", `${down.length} of ${f.plural(one.targets.length, "target")} unusable`];
  const hurt = one.targets.flatMap((target) => target.paths).filter((path) => path.unusable && !["disabled", "draining"].includes(path.unusable));
  return hurt.length ? ["warn", `${f.plural(hurt.length, "path")} unusable`] : ["good", "serving"];
}

const targetLevel = (target) => {
  if (target.unusable === "disabled") return "idle";
  if (!usable(target)) return target.unusable === "draining" || target.unusable === "cooldown" ? "warn" : "bad";
  return target.unusable === "other_group" ? "idle" : "good";
};

function targets(one) {
  if (one.action === "redirect") return h("span", { class: "way" }, h("span", { class: "hop" }, `redirect ${redirectOf(one)}`));
  const shown = [...one.targets].sort((left, right) => right.share - left.share).slice(0, 3);
  const rest = one.targets.length - shown.length;
  return [
    shown.map((target) => h("span", { class: `to ${targetLevel(target)}`, title: target.unusable ? because(target.unusable) : "usable" }, sign(targetLevel(target)), target.name,
      target.share > 0 && one.targets.length > 1 ? h("span", { class: "n" }, f.share(target.share)) : null)),
    rest > 0 ? h("span", { class: "under" }, `and ${rest} more`) : null,
  ];
}

const active = (one) => one.targets.reduce((sum, target) => sum + target.active, 0);

function columns(open) {
  return [
    { id: "route", label: "Route", key: (row) => `${row.id} ${row.enabled}`, make: (row) => h("a", { href: open(row.id) }, row.id) },
    { id: "order", label: "Order", number: true, wide: true, hint: "Place in the matching order", text: (row) => f.count(row.place) },
    { id: "match", label: "Matches", key: matchOf, make: (row) => h("code", { title: matchOf(row) }, matchOf(row)) },
    { id: "how", label: "State", key: (row) => condition(row).join(), make: (row) => {
      const [level, words] = condition(row);
      return h("span", { class: `state ${level}` }, sign(level), words);
    } },
    { id: "to", label: "Goes to", wide: true, key: (row) => JSON.stringify([row.redirect, row.targets.map((one) => [one.name, one.share, one.unusable])]), make: targets },
    { id: "active", label: "Active", number: true, wide: true, text: (row) => f.count(active(row)) },
    { id: "requests", label: "Requests", number: true, text: (row) => f.count(row.requests) },
    { id: "failed", label: "Failed", number: true, roomy: true, key: (row) => `${row.failures}/${row.requests}`,
      make: (row) => h("span", { class: f.many(row.failures, row.requests) ? "many" : null, title: f.plural(row.failures, "failure") }, f.failed(row.failures, row.requests)) },
    { id: "p95", label: "p95", number: true, wide: true, text: (row) => f.millis(row.p95_millis) },
  ];
}

/** A share as a bar. */
function bar(value) {
  return s("svg", { class: "bar-of", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "all", width: 100, height: 4 }), s("rect", { class: "part", width: (100 * value).toFixed(2), height: 4 }));
}

function pathRow(path) {
  const check = path.last_check;
  const checked = check ? [`${check.passed ? "passed" : "failed"} in ${f.millis(check.millis)}`, h("span", { class: "under reason" }, f.moment(check.at))] : f.NONE;
  const shown = path.unusable && path.unusable !== path.state ? `${path.state}, ${path.unusable}` : path.state;
  return h("tr", null,
    h("th", { scope: "row" }, path.agent === null ? "direct" : names.agent(path.agent)),
    h("td", null, state(path.unusable ?? path.state, shown), h("span", { class: "under reason" }, path.reason)),
    h("td", { class: "number" }, f.share(path.share)),
    h("td", { class: "number" }, f.count(path.active)),
    h("td", { class: "number" }, f.count(path.requests)),
    h("td", { class: "number" }, f.count(path.failures)),
    h("td", null, checked));
}

function paths(target) {
  const worst = [...target.paths].sort((one, other) => Boolean(other.unusable) - Boolean(one.unusable) || other.requests - one.requests);
  const shown = worst.slice(0, MOST_PATHS);
  const heads = [["Path"], ["State"], ["Share", 1], ["Active", 1], ["Requests", 1], ["Failed", 1], ["Last check"]];
  return [
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Paths of ${target.name}` }, h("table", { class: "plain-table paths" },
      h("caption", { class: "quiet" }, `Paths of ${target.name}`),
      h("thead", null, h("tr", null, heads.map(([words, number]) => h("th", { scope: "col", class: number ? "number" : null }, words)))),
      h("tbody", null, shown.map(pathRow)))),
    worst.length > shown.length ? h("p", { class: "under" }, `and ${f.count(worst.length - shown.length)} more`) : null,
  ];
}

const HOW = { direct: " directly", agent: " through agents" };

function group(number, list, one) {
  const serves = one.serving_group === number;
  return h("section", { class: "group" },
    h("h4", null, `Group ${number}`, h("span", { class: serves ? "state good" : "under" }, serves ? [sign("good"), "serves"] : "stands by")),
    list.map((target) => h("div", { class: "target" },
      h("p", { class: "target-head" }, sign(targetLevel(target)), h("b", null, target.name), h("span", { class: "under" }, target.unusable ? because(target.unusable) : ""),
        h("span", { class: "number" }, f.share(target.share))),
      bar(target.share),
      h("p", { class: "under" }, h("code", null, target.url ?? `answers ${target.static_status}`), HOW[target.transport] ?? "",
        target.transport === "agent" && target.balancing ? `, ${target.balancing}` : "", `, weight ${f.count(target.weight)}`),
      target.transport === "static" ? null : target.paths.length ? paths(target) : h("p", { class: "under" }, "No agent has its labels."))));
}

function current(one) {
  const groups = new Map();
  for (const target of one.targets) groups.set(target.priority_group, [...(groups.get(target.priority_group) ?? []), target]);
  const [level, words] = condition(one);
  return [
    facts([
      ["State", h("span", { class: `state ${level}` }, sign(level), words)],
      ["Matches", h("code", null, matchOf(one))],
      ["Order", `${one.place ? f.count(one.place) : "not tried"} on listener ${one.listener}, priority ${one.priority}`],
      one.action === "redirect" ? ["Redirects", h("code", null, redirectOf(one))] : ["Balancing", one.balancing],
      ["Requests", `${f.count(one.requests)}, ${f.count(one.failures)} failed, p95 ${f.millis(one.p95_millis)}`],
    ]),
    groups.size ? section("Targets", [...groups].sort(([a], [b]) => a - b).map(([number, list]) => group(number, list, one))) : null,
  ];
}

const declared = (one, more, address) => [
  section("Declared in", more ? [h("p", { class: "under" }, h("code", null, more.where)), toml(more.toml)] : h("p", { class: "under" }, "Loading")),
  h("p", null, h("a", { href: address("traffic", null, { route: one.id }) }, "Watch its traffic")),
];

const TROUBLE = { all: ["All", () => true], trouble: ["With trouble", (one) => ["warn", "bad"].includes(condition(one)[0])] };

export function mount(main, frame) {
  let view = null;
  let look = { object: null, params: {} };
  let more = null;
  let asked = null;
  const parts = new Map(); // listener id -> { element, … }

  const explain = explainer(frame);
  const filter = h("input", { type: "search", id: "filter", placeholder: "route, host, path, target …", autocomplete: "off", spellcheck: "false",
    oninput: () => frame.look({ ...look.params, filter: filter.value }) });
  const kinds = h("div");
  const sections = h("div", { class: "listeners" });
  const live = h("div");
  const rest = h("div");
  const drawer = new Drawer(() => frame.look(look.params, null));
  const told = h("p", { class: "told" });

  main.replaceChildren(
    h("div", { class: "top" }, h("div", null, h("h1", null, title), told)),
    explain.element,
    h("div", { class: "controls" }, h("label", { class: "field" }, h("span", null, "Filter"), filter), kinds),
    sections);

  function part(id) {
    const one = {
      head: h("h2"), under: h("p", { class: "under" }), toml: h("div"),
      list: table({ caption: `Routes of listener ${id}, in matching order`, name: "routes",
        columns: columns((route) => frame.address("routes", route, look.params)), id: (row) => row.id, empty: "No route." }),
    };
    text(one.head, id);
    one.element = h("section", { class: "listener" }, h("div", { class: "listener-head" }, one.head, one.under,
      h("details", null, h("summary", null, "TOML"), one.toml)), one.list.element);
    return one;
  }

  function matches(one) {
    const wanted = (look.params.filter ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return true;
    const words = [one.id, matchOf(one), redirectOf(one), ...one.targets.flatMap((target) => [target.name, target.url])].join(" ").toLowerCase();
    return wanted.every((word) => words.includes(word));
  }

  /** A listener's routes as they are tried; disabled ones, which are not, close the list. */
  function inOrder(id) {
    const tried = view.order[id] ?? [];
    const known = new Set(tried);
    const rest = Object.values(view.routes).filter((one) => one.listener === id && !known.has(one.id));
    tried.forEach((route, index) => view.routes[route] && (view.routes[route].place = index + 1));
    return [...tried.map((route) => view.routes[route]).filter(Boolean), ...rest];
  }

  function drawList() {
    if (!view) return;
    const ids = Object.keys(view.listeners).filter((id) => !look.params.listener || id === look.params.listener);
    for (const [id, one] of parts) {
      if (ids.includes(id)) continue;
      one.list.close();
      one.element.remove();
      parts.delete(id);
    }
    const kind = TROUBLE[look.params.only] ? look.params.only : "all";
    const numbers = { all: 0, trouble: 0 };
    for (const id of ids) {
      if (!parts.has(id)) {
        parts.set(id, part(id));
        sections.append(parts.get(id).element);
      }
      const one = parts.get(id);
      const listener = view.listeners[id];
      const rows = inOrder(id);
      const found = rows.filter(matches);
      for (const name of Object.keys(numbers)) numbers[name] += found.filter(TROUBLE[name][1]).length;
      text(one.under, `${listener.protocol} on ${listener.address.replace(/^\w+:\/\//, "")}, ${f.plural(listener.connections, "connection")}`);
      draw(one.toml, listener.toml ?? "", () => toml(listener.toml));
      one.list.say(rows.length ? "No route matches." : "This listener has no route: every request is answered 404.");
      one.list.show(found.filter(TROUBLE[kind][1]));
    }
    draw(kinds, [kind, numbers, look.params], () => choice("Which", Object.entries(TROUBLE).map(([id, [words]]) =>
      [[words, h("span", { class: "n" }, f.count(numbers[id]))], frame.address("routes", look.object, { ...look.params, only: id === "all" ? "" : id }), id === kind])));
    explain.listeners(Object.keys(view.listeners));
    const all = Object.values(view.routes);
    text(told, all.length ? `${f.plural(all.length, "route")} on ${f.plural(Object.keys(view.listeners).length, "listener")}, in the order in which they are matched.` : "");
  }

  function drawDrawer() {
    if (look.object === null || !view) {
      drawer.shut();
      asked = null; // whoever opens one again wants what is declared by then
      return;
    }
    const one = view.routes[look.object];
    drawer.open(look.object, one ? `on listener ${one.listener}` : "");
    if (!one) {
      drawer.show(h("p", { class: "empty" }, "There is no such route in the file."));
      return;
    }
    drawer.show(live, rest);
    if (asked !== one.id) load(one.id);
    const known = more?.id === one.id ? more : null;
    // Tables that scroll take the focus: they are not drawn anew under somebody's hands.
    if (!live.contains(document.activeElement) || live.drawn === undefined) draw(live, one, () => current(one));
    draw(rest, [one.id, known], () => declared(one, known, frame.address));
  }

  async function load(id) {
    asked = id;
    try {
      const found = await ask(`routes/${encodeURIComponent(id)}`);
      if (asked !== id) return;
      more = found;
      drawDrawer();
    } catch (error) {
      if (error instanceof Ended) frame.ended();
      else if (asked === id) asked = null;
    }
  }

  const stop = follow("live?view=routes", {
    state: frame.state,
    ended: frame.ended,
    show(next) {
      view = next;
      drawList();
      drawDrawer();
    },
  });

  names.refresh(() => {
    drawDrawer();
    explain.draw();
  });
  return {
    show(next) {
      look = next;
      if (document.activeElement !== filter) filter.value = look.params.filter ?? "";
      explain.show(look.params);
      drawList();
      drawDrawer();
    },
    close() {
      stop();
      for (const one of parts.values()) one.list.close();
      look = { object: null, params: {} };
      drawer.shut();
    },
  };
}
