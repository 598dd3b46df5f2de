// Is it up, what is slow, what fails, what changed: one screen.

import { draw, h, s, text } from "./dom.js";
import { follow } from "./net.js";
import { Readout, chart } from "./chart.js";
import { compare, sorted, table } from "./table.js";
import { choice, diff, sign } from "./parts.js";
import * as names from "./names.js";
import * as f from "./format.js";

export const title = "Overview";

const WINDOWS = [["5m", "5 m", "5 minutes"], ["1h", "1 h", "hour"], ["24h", "24 h", "24 hours"], ["30d", "30 d", "30 days"]];

// What an operator would look into first, for each way in which a request can fail.
const MEANS = {
  invalid_request: "the client's request was malformed",
  invalid_request_target: "the client asked for a path that is refused",
  method_not_allowed: "the client used a method that is refused",
  request_timeout: "the client sent its request too slowly",
  header_too_large: "the client's head was over the listener's limit",
  body_too_large: "the client's body was over the listener's limit",
  no_route: "no route of the listener matches",
  no_route_target_available: "the route had no usable target",
  connect_failed: "an origin refused the connection, or its name is unknown",
  tls_failed: "an origin's certificate or handshake failed",
  connect_timeout: "an origin did not take the connection in time",
  upstream_response_header_timeout: "an origin took the request and did not answer in time",
  upstream_closed: "an origin closed before its answer",
  upstream_invalid_response: "an origin's answer was malformed",
  upstream_aborted: "an answer broke off in the middle",
  agent_disconnected: "an agent left while it carried the request",
  agent_dial_failed: "an agent could not reach its origin",
  agent_dial_timeout: "an agent's origin did not take the connection in time",
  client_cancelled: "the client went away",
  server_left: "this server was told to stop while it answered",
  internal: "a fault of p2pstream itself: the log tells more",
};
// Endings that say nothing of our side: anybody may ask a public port for anything.
const OF_CLIENTS = new Set(["no_route", "client_cancelled", "invalid_request", "invalid_request_target", "method_not_allowed",
  "request_timeout", "header_too_large", "body_too_large"]);

const WARN_FROM = 0.01; // of the requests
const BAD_FROM = 0.05;
const worse = (one, other) => (other.count > one.count ? other : one);

/** The verdict on a view: { level, words, reasons: [[level, words, address?], …] }. Pure. */
export function judge(view) {
  const reasons = [];
  const { totals } = view;
  if (view.history && !view.history.ok) reasons.push(["warn", `History is not being kept: ${view.history.problem}`]);
  const away = view.agents_declared - view.agents_connected;
  if (away > 0) {
    const all = view.agents_connected === 0;
    const words = all ? "No agent is connected" : `${f.plural(away, "agent")} of ${f.count(view.agents_declared)} not connected`;
    reasons.push([all ? "bad" : "warn", words, "#/agents?state=away"]);
  }
  const ours = view.problems.filter((one) => !OF_CLIENTS.has(one.error_kind));
  const hurt = ours.reduce((sum, one) => sum + one.count, 0);
  if (hurt >= totals.requests * WARN_FROM && hurt > 0) {
    const bad = hurt >= totals.requests * BAD_FROM;
    reasons.push([bad ? "bad" : "warn", `${f.count(hurt)} of ${f.plural(totals.requests, "request")} failed, most by ${ours.reduce(worse).error_kind}`, "#problems"]);
  }
  if (totals.origin_errors > 0 && totals.origin_errors >= totals.requests * BAD_FROM) {
    reasons.push(["warn", `${f.count(totals.origin_errors)} of ${f.plural(totals.requests, "answer")} were an origin's 5xx`]);
  }
  const last = view.reloads?.[0];
  if (last && !last.ok) reasons.push(["warn", `The last reload, ${f.moment(last.at)}, was refused: the configuration before it serves`, "#changes"]);
  reasons.sort(([one], [other]) => (other === "bad") - (one === "bad"));
  const level = reasons.some(([one]) => one === "bad") ? "bad" : reasons.length ? "warn" : totals.requests ? "good" : "idle";
  const words = { good: "Up and answering", idle: "Up and idle", warn: "Up, with something to look at", bad: "In trouble" }[level];
  return { level, words, reasons };
}

function sentence(view, span) {
  const { totals } = view;
  const asked = totals.requests
    ? `${f.plural(totals.requests, "request")} in the last ${span}, ${f.percent(totals.success_percent)} answered well.`
    : `No request in the last ${span}.`;
  return `${asked} Running for ${f.duration(Date.now() / 1000 - view.started)}, version ${view.version}.`;
}

const TILES = [
  ["Requests", (v) => v.totals.rate === null ? f.NONE : `${f.rate(v.totals.rate)}/s`, (v) => `${f.count(v.active_requests)} active, ${f.plural(v.connections, "connection")}`],
  ["Success", (v) => f.percent(v.totals.success_percent), (v) => `${f.count(v.totals.failures)} failed${v.totals.origin_errors ? `, ${f.count(v.totals.origin_errors)} origin errors` : ""}`],
  ["Latency, median", (v) => f.millis(v.totals.p50_millis), (v) => `p95 ${f.millis(v.totals.p95_millis)}, p99 ${f.millis(v.totals.p99_millis)}`],
  ["Throughput, out", (v) => perSecond(v, "bytes_out"), (v) => `${perSecond(v, "bytes_in")} in`],
  ["Agents", (v) => f.count(v.agents_connected), (v) => `of ${f.count(v.agents_declared)} declared`],
];
/** How many seconds the totals are of: history may reach beyond the start, or not fill the window. */
const covered = ({ totals }) => (totals.rate > 0 ? totals.requests / totals.rate : 1);
const perSecond = (view, key) => (view.totals.rate === null ? f.NONE : `${f.bytes(view.totals[key] / covered(view))}/s`);

function charts(readout) {
  const speed = (value) => `${f.bytes(value)}/s`;
  return [
    chart({ title: "Requests a second", readout, form: f.rate,
      lines: [{ id: "requests", label: "all", area: true }, { id: "failures", label: "failed", area: true }] }),
    chart({ title: "Latency", readout, form: f.millis,
      lines: [{ id: "p50_millis", label: "p50" }, { id: "p95_millis", label: "p95" }, { id: "p99_millis", label: "p99" }] }),
    chart({ title: "Throughput", readout, form: speed,
      lines: [{ id: "bytes_out", label: "out", area: true }, { id: "bytes_in", label: "in" }] }),
    chart({ title: "Agents connected", readout, form: f.count, floor: 1,
      lines: [{ id: "agents_connected", label: "connected", area: true }] }),
  ];
}

/**
 * Counts of a step as rates a second. The last step is not over yet: it counts by the time that
 * went by, or, when that is next to nothing, not at all. Where nobody counted there is a gap. Pure.
 */
export function asRates(series, now) {
  const steps = series.requests.length;
  const lasts = now - (series.start + (steps - 1) * series.step_seconds);
  const kept = lasts < series.step_seconds / 5 && steps > 1 ? steps - 1 : steps;
  const cut = (values) => values.slice(0, kept);
  const absent = series.agents_connected.map((value, index) => value === null && !series.requests[index]);
  const per = (values) => cut(values).map((value, index) => {
    if (value === null || absent[index]) return null;
    return value / (index === steps - 1 ? Math.min(series.step_seconds, Math.max(1, lasts)) : series.step_seconds);
  });
  return { ...series, requests: per(series.requests), failures: per(series.failures), bytes_in: per(series.bytes_in),
    bytes_out: per(series.bytes_out), p50_millis: cut(series.p50_millis), p95_millis: cut(series.p95_millis),
    p99_millis: cut(series.p99_millis), agents_connected: cut(series.agents_connected) };
}

const KINDS = [["routes", "Routes"], ["targets", "Targets"], ["agents", "Agents"], ["listeners", "Listeners"]];

function hotspots(kind, label, address, sort) {
  const link = {
    routes: (row) => address("routes", row.id),
    targets: (row) => address("routes", row.id.split("/")[0]),
    agents: (row) => address("agents", row.id),
    listeners: (row) => address("routes", null, { listener: row.id }),
  }[kind];
  const shown = (row) => (kind === "agents" ? names.agent(row.id) : row.id);
  return table({
    caption: `${label} with the most requests, failures or latency`,
    name: "hot",
    id: (row) => row.id,
    empty: "Nothing in this window.",
    on: { sort },
    columns: [
      { id: "name", label, sort: shown, key: (row) => `${row.id} ${shown(row)}`, make: (row) => h("a", { href: link(row) }, shown(row)) },
      { id: "requests", label: "Requests", number: true, sort: (row) => row.requests, text: (row) => f.count(row.requests) },
      { id: "failures", label: "Failed", number: true, sort: (row) => row.failures,
        key: (row) => `${row.failures} ${row.success_percent}`,
        make: (row) => h("span", { class: f.many(row.failures, row.requests) ? "many" : null, title: `${f.percent(row.success_percent)} answered well` }, f.count(row.failures)) },
      { id: "p95", label: "p95", number: true, hint: "95 of 100 requests were answered faster", sort: (row) => row.p95_millis, text: (row) => f.millis(row.p95_millis) },
    ],
  });
}

function problem(one, address) {
  const most = Math.max(1, one.count);
  return h("li", null,
    sign(OF_CLIENTS.has(one.error_kind) ? "idle" : "warn"),
    h("div", null,
      h("p", null, h("code", null, one.error_kind), h("span", { class: "means" }, MEANS[one.error_kind] ?? "")),
      h("p", { class: "under" }, `last ${f.moment(one.last_seen)}`,
        one.routes.length ? [", in ", one.routes.map(([id, count], index) => [index ? ", " : "",
          id === null ? "no route" : h("a", { href: address("routes", id) }, id), most > 1 ? ` ${f.count(count)}` : ""])] : null)),
    h("b", { class: "number" }, f.count(one.count)));
}

function change(one) {
  const lines = one.ok ? one.lines : one.faults ?? [];
  return h("li", null,
    sign(one.ok ? "good" : "bad"),
    h("div", null,
      h("p", null, h("b", null, one.ok ? (lines.length ? "Reloaded" : "Reloaded, nothing changed") : "Refused"),
        ` by ${one.by ?? "unknown"}, `, h("time", { datetime: new Date(one.at * 1000).toISOString() }, f.moment(one.at))),
      lines.length > 6
        ? [diff(lines.slice(0, 5)), h("details", null, h("summary", null, `${f.count(lines.length - 5)} more`), diff(lines.slice(5)))]
        : lines.length ? diff(lines) : null));
}

function numbers(series) {
  const columns = [["requests", "Requests/s", f.rate], ["failures", "Failed/s", f.rate], ["p50_millis", "p50", f.millis],
    ["p95_millis", "p95", f.millis], ["p99_millis", "p99", f.millis], ["bytes_in", "In/s", f.bytes],
    ["bytes_out", "Out/s", f.bytes], ["agents_connected", "Agents", f.count]];
  const rows = series.requests.map((_, index) => index).reverse();
  return h("table", { class: "plain-table" },
    h("caption", { class: "quiet" }, "The charts' numbers, newest first"),
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "Time"), columns.map(([, words]) => h("th", { scope: "col", class: "number" }, words)))),
    h("tbody", null, rows.map((index) => {
      const at = series.start + index * series.step_seconds;
      const time = series.step_seconds >= 3_600 ? `${f.day(at)} ${f.clock(at, false)}` : f.clock(at);
      return h("tr", null, h("th", { scope: "row" }, time), columns.map(([key, , form]) => h("td", { class: "number" }, form(series[key][index]))));
    })));
}

export function mount(main, frame) {
  let view = null;
  let span = null;
  let stop = () => {};
  let sort = ["requests", true];
  const readout = new Readout();

  const heading = h("h1");
  const told = h("p", { class: "told" });
  const reasons = h("ul", { class: "reasons" });
  const windows = h("div");
  const tiles = TILES.map(([label]) => [h("dt", null, label), h("dd", { class: "big" }), h("dd", { class: "under" })]);
  const drawn = charts(readout);
  const table_ = h("details", { class: "numbers", ontoggle: () => drawNumbers() }, h("summary", null, "The same as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The charts' numbers" }));
  const hot = KINDS.map(([kind, label]) => [kind, hotspots(kind, label, frame.address, sortBy)]);
  const problems = h("ul", { class: "signals" });
  const changes = h("ol", { class: "signals changes" });

  main.replaceChildren(
    h("div", { class: "top" }, h("div", { class: "verdict" }, heading, told, reasons), windows),
    h("dl", { class: "tiles" }, tiles.map((tile) => h("div", null, tile))),
    h("section", { "aria-labelledby": "trends" }, h("h2", { id: "trends" }, "Trends"),
      h("div", { class: "charts" }, drawn.map((one) => one.element)), table_),
    h("div", { class: "pair" },
      h("section", { id: "problems", tabindex: "-1", "aria-labelledby": "problems-title" }, h("h2", { id: "problems-title" }, "Problem signals"), problems),
      h("section", { id: "changes", tabindex: "-1", "aria-labelledby": "changes-title" }, h("h2", { id: "changes-title" }, "What changed"), changes)),
    h("section", { "aria-labelledby": "hotspots" }, h("h2", { id: "hotspots" }, "Hotspots"),
      h("div", { class: "hots" }, hot.map(([, one]) => one.element))));

  function sortBy(column) {
    const descending = column === sort[0] ? !sort[1] : column !== "name";
    sort = [column, descending];
    drawHot();
  }

  function drawHot() {
    if (!view) return;
    const pick = { name: (row) => row.id, requests: (row) => row.requests, failures: (row) => row.failures, p95: (row) => row.p95_millis }[sort[0]];
    for (const [kind, one] of hot) one.show(sorted(view.hotspots[kind] ?? [], { sort: pick }, sort[1]).slice(0, 10), sort);
  }

  function drawNumbers() {
    const series = view && table_.open ? asRates(view.series, view.now) : null;
    draw(table_.lastChild, series ? `${series.start} ${series.requests.at(-1)}` : "", () => (series ? numbers(series) : []));
  }

  function drawVerdict() {
    const verdict = judge(view);
    draw(heading, verdict.words + verdict.level, () => [h("span", { class: "quiet" }, "Overview: "), sign(verdict.level), verdict.words]);
    text(told, sentence(view, WINDOWS.find(([id]) => id === view.window)?.[2] ?? view.window));
    draw(reasons, verdict.reasons, () => verdict.reasons.map(([level, words, href]) =>
      h("li", null, sign(level), href ? h("a", { href, onclick: href.startsWith("#/") ? null : jump }, words) : words)));
  }

  function jump(event) {
    event.preventDefault(); // an anchor of this page, not an address
    document.querySelector(event.currentTarget.getAttribute("href"))?.focus();
  }

  function show(next) {
    view = next;
    drawVerdict();
    TILES.forEach(([, big, under], index) => {
      text(tiles[index][1], big(view));
      text(tiles[index][2], under(view));
    });
    const rates = asRates(view.series, view.now);
    const { totals } = view;
    const seconds = covered(view);
    const over = { ...totals, requests: totals.rate, failures: (totals.failures ?? 0) / seconds,
      bytes_in: totals.bytes_in / seconds, bytes_out: totals.bytes_out / seconds, agents_connected: view.agents_connected };
    for (const one of drawn) one.show({ start: rates.start, step: rates.step_seconds, values: rates, totals: over });
    drawNumbers();
    drawHot();
    const counted = [...view.problems].sort((one, other) => other.count - one.count || compare(one.error_kind, other.error_kind));
    draw(problems, counted, () => (counted.length ? counted.map((one) => problem(one, frame.address))
      : h("li", { class: "empty" }, "No request has failed in this window.")));
    draw(changes, view.reloads, () => (view.reloads.length ? view.reloads.map(change)
      : h("li", { class: "empty" }, "No reload since history began.")));
  }

  names.refresh(drawHot);
  return {
    show({ params }) {
      const wanted = WINDOWS.some(([id]) => id === params.window) ? params.window : "5m";
      if (wanted === span) return;
      span = wanted;
      readout.at(null);
      draw(windows, span, () => choice("Window", WINDOWS.map(([id, words, long]) =>
        [[h("span", { "aria-hidden": "true" }, words), h("span", { class: "quiet" }, `last ${long}`)], frame.address("overview", null, id === "5m" ? {} : { window: id }), id === span])));
      stop();
      stop = follow(`live?view=overview&window=${span}`, { show, state: frame.state, ended: frame.ended });
    },
    tick: () => view && drawVerdict(),
    close() {
      stop();
      for (const [, one] of hot) one.close();
    },
  };
}
