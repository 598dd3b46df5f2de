// The way in: one field, for the admin token.

import { h, text } from "./dom.js";
import { Refused, ask } from "./net.js";
import { plural } from "./format.js";

function reasonOf(error) {
  if (!(error instanceof Refused)) return "The server does not answer. Is it running?";
  if (error.status === 429) {
    const when = error.after ? `in ${plural(error.after, "second")}` : "in a while";
    return `Too many attempts. Try again ${when}.`;
  }
  return error.status === 401 || error.status === 403 ? "This is not the admin token." : error.message;
}

export function mount(main, { reason, entered }) {
  const field = h("input", { id: "token", name: "token", type: "password", autocomplete: "current-password",
    autocapitalize: "none", spellcheck: "false", required: true, "aria-describedby": "token-hint wrong" });
  const wrong = h("p", { id: "wrong", class: "wrong", role: "alert" }, "");
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    text(wrong, "");
    try {
      await ask("login", { token: field.value.trim() });
      field.value = "";
      entered();
    } catch (error) {
      text(wrong, reasonOf(error));
      field.select();
      field.focus();
    } finally {
      button.disabled = false;
    }
  }

  main.replaceChildren(h("form", { class: "login", onsubmit: submit },
    h("h1", null, "Sign in"),
    reason ? h("p", { class: "reason", role: "status" }, reason) : null,
    h("input", { type: "text", name: "username", autocomplete: "username", value: "admin", hidden: true }), // for password managers
    h("label", { for: "token" }, "Admin token"),
    field,
    wrong,
    button,
    h("p", { id: "token-hint", class: "hint" }, "Where none is set in the file, the server made one and keeps it in ",
      h("code", null, "state_dir/admin-token"), ".")));
  field.focus();
  return { show() {}, close() {} };
}
