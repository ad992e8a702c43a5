// Small parts that several sections share.

import { html } from "/static/vendor/lit-html/lit-html.js";

const GOOD = new Set(["healthy", "running", "ok"]);
const WARN = new Set(["late", "draining", "starting", "restarting"]);

/**
 * A state in its colour, and with a sign for who sees none.
 * @param {string} word
 */
export function state(word) {
  const how = GOOD.has(word) ? "good" : WARN.has(word) ? "warn" : "bad";
  const sign = { good: "●", warn: "◆", bad: "▲" }[how];
  return html`<span class="state ${how}"><span aria-hidden="true">${sign}</span> ${word || "unknown"}</span>`;
}
