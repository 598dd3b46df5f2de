// Where would this request go, now: the same answer as `p2pstream explain --live`.

import { draw, h, text } from "./dom.js";
import { Ended, ask, query } from "./net.js";
import { way } from "./journey.js";
import * as f from "./format.js";
import * as names from "./names.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/** The hops of an explanation, as far as it gets. Pure. */
export function hops(told) {
  const found = [["listener", told.listener]];
  if (told.route) found.push(["route", told.route]);
  const serving = told.groups.find((group) => group.serves);
  const targets = (serving?.targets ?? []).filter((target) => target.share > 0);
  if (!told.error_kind && targets.length) {
    found.push(["target", targets.map((target) => `${target.name}${targets.length > 1 ? ` ${f.share(target.share)}` : ""}`).join(", ")]);
    const agents = targets.flatMap((target) => target.agents.filter((agent) => agent.share > 0)
      .map((agent) => `${names.agent(agent.id)}${target.agents.length > 1 || targets.length > 1 ? ` ${f.share(agent.share * target.share)}` : ""}`));
    if (agents.length) found.push(["agent", agents.length > 4 ? `${agents.slice(0, 3).join(", ")} and ${agents.length - 3} more` : agents.join(", ")]);
    const origins = [...new Set(targets.map((target) => target.url ?? `static ${target.static_status}`))];
    found.push(["origin", origins.join(", ")]);
  }
  if (told.location) found.push(["answer", `${told.status} to ${told.location}`, "good"]);
  else if (told.error_kind) found.push(["answer", `${told.status} ${told.error_kind}`, "bad"]);
  return found;
}

export function explainer(frame, listeners) {
  const method = h("select", { id: "method", "aria-label": "Method" }, METHODS.map((name) => h("option", null, name)));
  const url = h("input", { id: "url", type: "text", inputmode: "url", autocapitalize: "none", autocomplete: "off", spellcheck: "false",
    placeholder: "https://app.example.com/path", "aria-label": "URL", required: true });
  const listener = h("select", { id: "listener", "aria-label": "Listener", hidden: true });
  const out = h("div", { class: "explained", "aria-live": "polite" });
  const form = h("form", { class: "explain", onsubmit: submit },
    h("h2", null, "Where would it go?"),
    h("div", { class: "line" }, method, url, listener, h("button", { type: "submit", class: "primary" }, "Explain")),
    out);
  let last = "";
  let told = null;
  let wanted = null; // the listener that the address names, perhaps before it is known

  function submit(event) {
    event.preventDefault();
    frame.look({ ...frame.params(), method: method.value, url: url.value.trim(), on: listener.value });
    run(true);
  }

  async function run(again) {
    const asked = query({ method: method.value, url: url.value.trim(), listener: listener.value });
    if (!url.value.trim() || (asked === last && !again)) return;
    last = asked;
    try {
      const answer = await ask(`explain?${asked}`);
      if (last !== asked) return;
      told = answer;
      drawTold();
    } catch (error) {
      told = null;
      if (error instanceof Ended) return frame.ended();
      out.replaceChildren(h("p", { class: "wrong" }, error instanceof TypeError ? "The server does not answer." : error.message));
    }
  }

  function drawTold() {
    if (!told) return;
    out.replaceChildren(way(hops(told)),
      h("details", { open: told.lines.length <= 60 }, h("summary", null, "Why, line by line"),
        h("pre", { class: "toml", tabindex: "0", role: "region", "aria-label": "Explanation" }, h("code", null, told.lines.join("\n")))));
  }

  return {
    element: form,
    draw: drawTold,
    listeners(ids) {
      draw(listener, ids, () => [["", "by its URL"], ...ids.map((id) => [id, id])].map(([value, words]) => h("option", { value }, words)));
      listener.hidden = ids.length < 2;
      if (wanted !== null && ids.includes(wanted)) listener.value = wanted;
    },
    show(params) {
      wanted = params.on ?? "";
      if (document.activeElement !== url && params.url !== undefined && params.url !== url.value) {
        url.value = params.url;
        if (METHODS.includes(params.method)) method.value = params.method;
        run(false);
      }
    },
  };
}
