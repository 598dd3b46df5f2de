// Charts over time, drawn as SVG that stretches: paths in a box of their own units, words and
// ticks beside it in percent. The pointer, or the arrow keys, read out one moment in all charts
// that share a `Readout`.

import { attr, draw, h, perFrame, s, text } from "./dom.js";
import { NONE, clock, day } from "./format.js";

const HEIGHT = 100;
const STEPS = [1, 2, 5, 10];

/** The smallest round number that is at least `value`, and a third or so of it as the tick. */
export function scale(value) {
  if (!(value > 0)) return { top: 1, tick: 1 };
  const rough = value / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const tick = STEPS.map((step) => step * power).find((step) => step >= rough * 0.999);
  return { top: Math.ceil(value / tick - 0.001) * tick, tick };
}

const MINUTE = 60;
const HOUR = 3_600;
const DAY = 86_400;
const GRAINS = [MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY];

/** Round local times within a span, four or five of them: [[fraction, words], …] */
export function ticks(start, end) {
  const grain = GRAINS.find((one) => (end - start) / one <= 6) ?? 7 * DAY;
  const zone = -new Date(end * 1000).getTimezoneOffset() * MINUTE;
  const found = [];
  for (let at = Math.ceil((start + zone) / grain) * grain - zone; at <= end; at += grain) {
    found.push([(at - start) / (end - start), grain >= DAY ? day(at) : clock(at, false)]);
  }
  return found.filter(([where]) => where > 0.03 && where < 0.97);
}

/** What the charts of one page share: the moment that is read out, by its index, or null. */
export class Readout {
  #charts = [];
  index = null;

  join(chart) {
    this.#charts.push(chart);
  }

  at(index) {
    if (index === this.index) return;
    this.index = index;
    for (const chart of this.#charts) chart.mark();
  }
}

/** A line through what was measured; what was not leaves a gap, a lone point is a dot. */
export function path(values, top) {
  let drawn = "";
  let open = false;
  values.forEach((value, index) => {
    if (value === null || value === undefined) {
      open = false;
      return;
    }
    const y = (HEIGHT - (Math.min(value, top) / top) * HEIGHT).toFixed(2);
    const alone = !open && (values[index + 1] ?? null) === null;
    drawn += open ? `L${index} ${y}` : `M${index} ${y}`;
    if (alone) drawn += `h0`;
    open = true;
  });
  return drawn;
}

function area(values, top) {
  let drawn = "";
  let begun = -1;
  for (let index = 0; index <= values.length; index += 1) {
    const here = (values[index] ?? null) !== null;
    if (here && begun < 0) begun = index;
    if (here || begun < 0) continue;
    const edge = path(values.slice(begun, index), top).replace("h0", "").replace(/([ML])(\d+)/g, (_, step, at) => `L${Number(at) + begun}`);
    drawn += `M${begun} ${HEIGHT}${edge}L${index - 1} ${HEIGHT}Z`;
    begun = -1;
  }
  return drawn;
}

/**
 * One chart. `lines`: [{ id, label, area?, floor? }]; `show({ start, step, values: {id: […]},
 * totals: {id: value} })`. `form` writes a value.
 */
export function chart({ title, lines, form, readout, floor = 0 }) {
  const grid = s("g", { class: "grid" });
  const labels = s("g");
  const plots = lines.map((line) => [
    line.area ? s("path", { class: `area ${line.id}` }) : null,
    s("path", { class: `line ${line.id}` }),
  ]);
  const inner = s("svg", { width: "100%", height: "100%", preserveAspectRatio: "none", overflow: "visible" }, plots);
  const cursor = s("line", { class: "cursor", y1: "0", y2: "100%", hidden: true });
  const axis = s("g", { class: "axis" });
  const svg = s("svg", { class: "plot", "aria-hidden": "true" }, grid, inner, labels, cursor);
  const times = s("svg", { class: "times", "aria-hidden": "true" }, axis);
  const values = lines.map(() => h("dd"));
  const legend = h("dl", { class: "legend" }, lines.map((line, index) =>
    h("div", null, h("dt", null, s("svg", { class: "swatch", viewBox: "0 0 16 8", "aria-hidden": "true" },
      s("path", { class: `line ${line.id}`, d: "M1 4h14" })), line.label), values[index])));
  const when = h("span", { class: "when" });
  const reader = h("div", { class: "reader", role: "slider", tabindex: "0", "aria-label": `${title}: read out a moment`,
    "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0" }, svg);
  const element = h("figure", { class: "chart" }, h("figcaption", null, h("h3", null, title), when), legend, reader, times);
  let shown = null;

  function words(index) {
    return lines.map((line, place) => {
      const value = index === null ? shown.totals[line.id] : shown.values[line.id][index];
      const said = value === null || value === undefined ? NONE : form(value);
      text(values[place], said);
      return `${line.label} ${said}`;
    });
  }

  function mark() {
    if (!shown) return;
    const index = readout.index === null ? null : Math.min(readout.index, shown.count - 1);
    const said = words(index);
    const now = index ?? shown.count - 1;
    const at = shown.start + now * shown.step;
    const time = shown.step >= HOUR ? `${day(at)} ${clock(at, false)}` : clock(at);
    text(when, index === null ? "" : time);
    attr(cursor, "hidden", index === null);
    if (index !== null) {
      const x = `${(index / Math.max(1, shown.count - 1)) * 100}%`;
      attr(cursor, "x1", x);
      attr(cursor, "x2", x);
    }
    attr(reader, "aria-valuenow", now);
    attr(reader, "aria-valuetext", `${time}: ${said.join(", ")}`);
  }

  const point = perFrame((x) => {
    if (!shown) return;
    const box = svg.getBoundingClientRect();
    const where = (x - box.left) / box.width;
    readout.at(Math.max(0, Math.min(shown.count - 1, Math.round(where * (shown.count - 1)))));
  });
  reader.addEventListener("pointermove", (event) => point(event.clientX));
  reader.addEventListener("pointerdown", (event) => point(event.clientX));
  reader.addEventListener("pointerleave", () => requestAnimationFrame(() => readout.at(null)));
  reader.addEventListener("blur", () => readout.at(null));
  reader.addEventListener("keydown", (event) => {
    if (!shown) return;
    const last = shown.count - 1;
    const now = readout.index ?? last;
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1,
      PageUp: now + 10, PageDown: now - 10, Home: 0, End: last }[event.key];
    if (event.key === "Escape") readout.at(null);
    if (to === undefined) return;
    event.preventDefault();
    readout.at(Math.max(0, Math.min(last, to)));
  });

  function show(series) {
    const all = lines.flatMap((line) => series.values[line.id]).filter((value) => value !== null);
    const { top, tick } = scale(Math.max(floor, 0, ...all));
    const count = series.values[lines[0].id].length;
    shown = { ...series, count };
    attr(inner, "viewBox", `0 0 ${Math.max(1, count - 1)} ${HEIGHT}`);
    lines.forEach((line, index) => {
      const [filled, stroke] = plots[index];
      attr(stroke, "d", path(series.values[line.id], top));
      if (filled) attr(filled, "d", area(series.values[line.id], top));
    });
    const levels = rungs(top, tick);
    draw(grid, levels, () => levels.map(([, y]) => s("line", { x1: "0", x2: "100%", y1: y, y2: y })));
    draw(labels, levels, () => levels.slice(1).map(([value, y]) => s("text", { x: "0", y, dy: "12" }, form(value).replace(/\.0+(?!\d)/, ""))));
    const end = series.start + (count - 1) * series.step;
    const marks = ticks(series.start, end);
    draw(axis, marks, () => marks.map(([where, word]) => s("text", { x: `${(where * 100).toFixed(2)}%`, y: "12" }, word)));
    attr(reader, "aria-valuemax", count - 1);
    mark();
  }

  const self = { element, show, mark };
  readout.join(self);
  return self;
}

/** The grid's levels: [[value, how far down], …], the lowest first. */
function rungs(top, tick) {
  const found = [];
  for (let value = 0; value <= top * 1.001; value += tick) found.push([value, `${(100 - (value / top) * 100).toFixed(2)}%`]);
  return found;
}
