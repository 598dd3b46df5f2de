// A table that holds any number of rows and draws those in sight: what a thousand rows cost is
// what a screenful costs. Rows are keyed, cells are touched only where what they show has changed.
//
// A column: { id, label, hint?, wide?, roomy?, number?, sort?(row), text(row) } or { …, key(row), make(row) }
// where `key` is a signature of what `make` would draw. The first column heads its row. A `wide` one
// is for wide windows, a `roomy` one for all but phones.

import { attr, draw, h, perFrame, s, text } from "./dom.js";

const BEYOND = 8; // rows drawn above and below the sight, so that tabbing and scrolling meet them

/** `on.sort(column id)` makes the headers buttons. Returns { element, show(rows, sorted) }. */
export function table({ caption, columns, id, name, empty, on = {} }) {
  const heads = columns.map((column) => head(column, on.sort));
  const body = h("tbody", { role: "rowgroup" });
  const element = h(
    "table",
    { class: `rows ${name}`, role: "table" },
    h("caption", { class: "quiet" }, caption),
    h("colgroup", null, columns.map((column) => h("col", { class: classes(column) }))),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  const none = h("p", { class: "empty", hidden: true }, empty ?? "Nothing here.");
  const frame = h("div", { class: "frame", tabindex: "-1" }, element, none);
  const kept = new Map(); // key -> the row's element
  let rows = [];
  let height = 0;

  function span() {
    if (rows.length <= BEYOND * 4) return [0, rows.length];
    height ||= body.firstElementChild?.getBoundingClientRect().height ?? 0;
    if (!height) return [0, BEYOND * 4]; // none drawn yet to measure
    const top = frame.getBoundingClientRect().top + heads[0].offsetHeight;
    const first = Math.floor(Math.max(0, -top) / height) - BEYOND;
    const seen = Math.ceil(innerHeight / height) + BEYOND * 2;
    const from = Math.max(0, Math.min(first, rows.length - seen));
    return [from, Math.min(rows.length, from + seen)];
  }

  function render() {
    const [from, to] = span();
    if (!height && to < rows.length) later(); // now there is one to measure
    const wanted = new Set();
    for (let index = from; index < to; index += 1) wanted.add(id(rows[index]));
    // First of all, while the page has its height: focusing lays it out, and would cut the scroll.
    const focused = document.activeElement?.closest("tr");
    if (focused?.parentNode === body && !wanted.has(focused.key)) frame.focus({ preventScroll: true });
    frame.style.paddingTop = `${from * height}px`;
    frame.style.paddingBottom = `${(rows.length - to) * height}px`;
    for (const [key, row] of kept) {
      if (wanted.has(key)) continue;
      row.remove();
      kept.delete(key);
    }
    let next = body.firstElementChild;
    for (let index = from; index < to; index += 1) {
      const value = rows[index];
      const key = id(value);
      let row = kept.get(key);
      if (!row) {
        row = blank(columns);
        row.key = key;
        kept.set(key, row);
      }
      fillRow(row, columns, value, index);
      if (on.row) on.row(row, value);
      if (row === next) next = next.nextElementSibling;
      else body.insertBefore(row, next);
    }
  }

  const later = perFrame(render);
  const resized = perFrame(() => {
    height = 0;
    render();
  });
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", resized, { passive: true });

  return {
    element: frame,
    show(list, sorted) {
      rows = list;
      attr(element, "aria-rowcount", rows.length + 1);
      element.hidden = rows.length === 0;
      none.hidden = rows.length > 0;
      if (sorted) heads.forEach((cell, index) => mark(cell, columns[index], sorted));
      render();
    },
    /** Whether its head has been scrolled out of sight. */
    isScrolled: () => frame.getBoundingClientRect().top < 0,
    say(words) {
      text(none, words);
    },
    close() {
      removeEventListener("scroll", later);
      removeEventListener("resize", resized);
    },
  };
}

const classes = (column) =>
  [`c-${column.id}`, column.number && "number", column.wide && "wide", column.roomy && "roomy"].filter(Boolean).join(" ");

function head(column, sort) {
  const props = { scope: "col", role: "columnheader", class: classes(column), title: column.hint };
  if (!column.sort || !sort) return h("th", props, column.label);
  const arrow = s("svg", { class: "arrow", viewBox: "0 0 8 8", "aria-hidden": "true" }, s("path", { d: "M1 2.500 4 6l3-3.500" }));
  return h("th", props, h("button", { type: "button", onclick: () => sort(column.id) }, h("span", null, column.label), arrow));
}

function mark(cell, column, [by, descending]) {
  if (column.sort) attr(cell, "aria-sort", column.id === by ? (descending ? "descending" : "ascending") : "none");
}

function blank(columns) {
  return h(
    "tr",
    { role: "row" },
    columns.map((column, index) =>
      index === 0
        ? h("th", { scope: "row", role: "rowheader", class: classes(column) })
        : h("td", { role: "cell", class: classes(column) }),
    ),
  );
}

function fillRow(row, columns, value, index) {
  attr(row, "aria-rowindex", index + 2);
  let cell = row.firstElementChild;
  for (const column of columns) {
    if (column.text) text(cell, column.text(value));
    else draw(cell, column.key(value), () => column.make(value));
    cell = cell.nextElementSibling;
  }
}

/** Sorts by a column: numbers by size, names as people count, what is absent last. */
export function sorted(rows, column, descending) {
  const turn = descending ? -1 : 1;
  const absent = (value) => value === null || value === undefined;
  return rows
    .map((row) => [column.sort(row), row])
    .sort(([one], [other]) => {
      if (absent(one) || absent(other)) return absent(one) - absent(other);
      if (typeof one === "string") return turn * compare(one, other);
      return turn * (one - other);
    })
    .map(([, row]) => row);
}

export const { compare } = new Intl.Collator("en", { numeric: true });
