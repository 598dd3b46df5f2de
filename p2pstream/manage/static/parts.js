// Pieces that several pages use.

import { h, s } from "./dom.js";

/** A state's sign: its form differs as well as its colour. */
const SIGNS = {
  good: "M8 2.500a5.500 5.500 0 1 0 0 11a5.500 5.500 0 1 0 0-11Z",
  warn: "M8 2 15 14H1Z",
  bad: "M3 3h10v10H3Z",
  idle: "M8 4a4 4 0 1 0 0 8a4 4 0 1 0 0-8Z",
};
export const sign = (level) =>
  s("svg", { class: `sign ${level}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: SIGNS[level] }));

const STATES = {
  connected: "good", healthy: "good", unproven: "warn", draining: "warn", cooldown: "warn",
  unhealthy: "bad", disconnected: "bad", disabled: "idle", unknown: "idle",
};
export const level = (state) => STATES[state] ?? "idle";
export const state = (name, words = name) => h("span", { class: `state ${level(name)}` }, sign(level(name)), words);

// As `explain` words them.
const BECAUSE = {
  disabled: "disabled in the file", draining: "draining: gets no new requests", disconnected: "not connected",
  cooldown: "cooling down after failed connects", no_agent: "no agent has its labels",
  no_usable_agent: "none of its agents is usable", other_group: "another group serves", tried: "tried already",
};
export const because = (reason) => BECAUSE[reason] ?? reason;

/** A segmented choice whose options are links: [[words, address, current], …] */
export const choice = (label, options) =>
  h("nav", { class: "choice", "aria-label": label },
    options.map(([words, href, current]) => h("a", { href, "aria-current": current ? "true" : null }, words)));

/** A TOML text: its headers, keys and comments told apart. */
export function toml(source) {
  const lines = (source ?? "").trimEnd().split("\n").map((line) => {
    const kind = /^\s*#/.test(line) ? "comment" : /^\s*\[/.test(line) ? "head" : null;
    const key = kind ? null : /^(\s*)([A-Za-z0-9_."/-]+)(\s*=.*)$/.exec(line);
    if (key) return h("span", null, key[1], h("b", null, key[2]), key[3], "\n");
    return h("span", { class: kind }, line, "\n");
  });
  return h("pre", { class: "toml", tabindex: "0", role: "region", "aria-label": "TOML" }, h("code", null, lines));
}

/** A definition list: [[term, value], …]; values may be nodes. */
export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(Boolean).map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value))));

export const section = (title, ...content) => h("section", null, h("h3", null, title), content);

/** Lines of a plan: what came, went, changed. */
export const diff = (lines) =>
  h("ul", { class: "diff" }, lines.map((line) => {
    const kind = { "+": "added", "-": "removed", "~": "changed" }[line[0]];
    return h("li", { class: kind }, line);
  }));

let opened = null;

/** A drawer over the page: modal, so Escape, focus and the rest of the page are the browser's. */
export class Drawer {
  #dialog;
  #title = h("h2", { id: "drawer-title", tabindex: "-1" });
  #under = h("p", { class: "under" });
  body = h("div", { class: "drawer-body" });
  #leave;
  #from = null;

  constructor(leave) {
    this.#leave = leave;
    const close = h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => this.#dialog.close() },
      s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: "M3.500 3.500l9 9m0-9l-9 9" })));
    this.#dialog = h("dialog", { class: "drawer", "aria-labelledby": "drawer-title", onclose: () => this.#closed(),
      onclick: (event) => event.target === this.#dialog && this.#dialog.close() },
      h("div", { class: "drawer-inner" }, h("div", { class: "drawer-head" }, h("div", null, this.#title, this.#under), close), this.body));
  }

  open(title, under = "") {
    this.#title.replaceChildren(title);
    this.#under.replaceChildren(...[under].flat());
    if (this.#dialog.open) return;
    this.#from = document.activeElement;
    document.body.append(this.#dialog);
    this.#dialog.showModal();
    this.#title.focus();
    opened = this;
  }

  /** Puts these into it, unless they are there already. */
  show(...parts) {
    const there = [...this.body.children];
    if (there.length !== parts.length || parts.some((part, index) => part !== there[index])) this.body.replaceChildren(...parts);
  }

  get isOpen() {
    return this.#dialog.open;
  }

  /** Close without telling: the address has changed already. */
  shut() {
    if (!this.#dialog.open) return;
    const leave = this.#leave;
    this.#leave = () => {};
    this.#dialog.close();
    this.#closed();
    this.#leave = leave;
  }

  #closed() {
    if (opened !== this || this.#dialog.open) return;
    opened = null;
    this.#dialog.remove();
    if (this.#from?.isConnected) this.#from.focus({ preventScroll: true });
    this.#leave();
  }
}
