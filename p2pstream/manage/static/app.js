// The frame around the pages: who is here, which page, how the connection stands.
//
// The address says it all: `#/agents/attic?filter=home` is a page, one of its objects, and how it
// is looked at; back, forward, reload and a link to a colleague work.

import { attr, h, s, text } from "./dom.js";
import { ask } from "./net.js";
import * as login from "./login.js";
import * as overview from "./overview.js";
import * as agents from "./agents.js";
import * as routes from "./routes.js";
import * as traffic from "./traffic.js";

const PAGES = { overview, agents, routes, traffic };
const SAYS = { connecting: "Connecting", live: "Live", lost: "Connection lost, retrying", refused: "Not accepted, retrying", paused: "Paused" };

const bar = document.getElementById("bar");
const main = document.getElementById("main");
const say = document.getElementById("say");

/** Writes an address: `address("agents", "attic", {filter: "x"})`. */
export function address(page, object = null, params = {}) {
  const set = Object.entries(params).filter(([, value]) => value);
  const query = set.length ? `?${new URLSearchParams(set)}` : "";
  return `#/${page}${object === null ? "" : `/${encodeURIComponent(object)}`}${query}`;
}

function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page, ...object] = path.split("/");
  let id = null;
  try {
    id = object.length ? decodeURIComponent(object.join("/")) : null;
  } catch {
    // A mangled link: the page without the object.
  }
  return { page: page in PAGES ? page : "overview", object: id, params: Object.fromEntries(new URLSearchParams(query)) };
}

const status = h("span", { class: "link", "data-state": "connecting" }, h("i", { "aria-hidden": "true" }), h("span"));
const links = Object.entries(PAGES).map(([name, page]) => [name, h("a", { href: address(name) }, page.title)]);

let current = null; // { name, page } of what is mounted
let now = parse(location.hash);

/** What a page may ask of its frame. */
const frame = {
  address,
  /** Change how this page is looked at, without a step in the history. */
  look(params, object = now.object) {
    const next = address(now.page, object, params);
    if (next === location.hash) return;
    history.replaceState(null, "", next);
    now = parse(next);
    current?.page.show(now);
  },
  params: () => now.params,
  go(page, object, params) {
    location.hash = address(page, object, params);
  },
  state(name) {
    if (status.dataset.state === name) return;
    const before = status.dataset.state;
    status.dataset.state = name;
    text(status.lastChild, SAYS[name]);
    if (name === "lost") text(say, "Connection lost, retrying.");
    else if (name === "live" && before === "lost") text(say, "Connected again.");
  },
  say: (words) => text(say, words),
  ended: () => enter("Your session has ended. Sign in again."),
};

function themes() {
  const root = document.documentElement;
  const names = { auto: "System colours", light: "Light", dark: "Dark" };
  const order = ["auto", "light", "dark"];
  const button = h("button", { type: "button", class: "icon theme" }, s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
    s("circle", { cx: 8, cy: 8, r: 5.5 }), s("path", { class: "half", d: "M8 2.500a5.500 5.500 0 0 1 0 11Z" })));
  const shown = () => root.dataset.theme ?? "auto";
  const label = () => {
    button.title = names[shown()];
    attr(button, "aria-label", `Colours: ${names[shown()]}. Change`);
  };
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(shown()) + 1) % order.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (next === "auto") localStorage.removeItem("theme");
      else localStorage.setItem("theme", next);
    } catch {
      // It holds until the page is left.
    }
    label();
  });
  label();
  return button;
}

async function leave() {
  try {
    await ask("logout", {});
  } catch {
    // It may have ended by itself; the login says where we are.
  }
  enter();
}

function drawBar(signedIn) {
  const brand = h("a", { class: "brand", href: address("overview"), "aria-label": "p2pstream, overview" },
    s("svg", { viewBox: "0 0 32 32", "aria-hidden": "true" },
      s("path", { d: "M4 16h7c5 0 5-8 10-8h3M11 16c5 0 5 8 10 8h3" }),
      s("circle", { cx: 26.5, cy: 8, r: 2.5 }), s("circle", { cx: 26.5, cy: 24, r: 2.5 })),
    h("span", null, "p2pstream"));
  const out = h("button", { type: "button", class: "plain", onclick: leave }, "Sign out");
  bar.replaceChildren(h("div", { class: "bar-inner" }, brand,
    ...(signedIn ? [h("nav", { class: "pages", "aria-label": "Pages" }, links.map(([, link]) => link)), status] : []),
    h("div", { class: "tools" }, themes(), signedIn ? out : null)));
}

function unmount() {
  current?.page.close();
  current = null;
  main.replaceChildren();
}

function enter(reason = "") {
  unmount();
  drawBar(false);
  document.title = "Sign in · p2pstream";
  current = { name: "login", page: login.mount(main, { reason, entered }) };
}

function entered() {
  drawBar(true);
  unmount();
  route();
  main.focus(); // what had it, the form, is gone
}

function route() {
  now = parse(location.hash);
  if (current?.name === "login") return;
  if (current?.name !== now.page) {
    unmount();
    text(say, "");
    document.title = `${PAGES[now.page].title} · p2pstream`;
    for (const [name, link] of links) attr(link, "aria-current", name === now.page ? "page" : null);
    scrollTo(0, 0);
    frame.state("connecting");
    current = { name: now.page, page: PAGES[now.page].mount(main, frame) };
  }
  current.page.show(now);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the page's address
  main.focus();
  main.scrollIntoView();
});
addEventListener("hashchange", route);
// Durations grow while nothing else happens.
setInterval(() => !document.hidden && current?.page.tick?.(), 1000);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, dialog")) return;
  const filter = main.querySelector("input[type=search]");
  if (!filter) return;
  event.preventDefault();
  filter.focus();
});

async function start() {
  try {
    const session = await ask("session");
    if (session.authenticated) {
      drawBar(true);
      route();
    } else {
      enter();
    }
  } catch {
    enter("The server does not answer. Trying again with every sign-in.");
  }
}

start();
