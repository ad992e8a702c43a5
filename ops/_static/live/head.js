// The head of the page: which system, how old what it shows is, and what is wrong with it.

import { html, nothing } from "/static/vendor/lit-html/lit-html.js";
import { repeat } from "/static/vendor/lit-html/directives/repeat.js";
import { clock, count, plural } from "./format.js";

/**
 * @param {import("./store.js").Store} store
 * @param {{live: boolean, why: string}} state
 * @param {() => void} again
 * @param {{path: string, title: string}[]} pages of services that this node has
 */
export function head(store, state, again, pages) {
  const { system } = store;
  const age = Math.max(0, Math.round(Date.now() / 1000 - store.at));
  return html`
    <h1><img src="/static/icon.svg" alt="" width="22" height="22"> Aegis
      <span class="faint">${system?.namespace ?? ""}</span></h1>
    <p class="stream" role="status">${
      state.live
        ? html`<span class="dot good" aria-hidden="true"></span>live`
        : html`<span class="dot bad" aria-hidden="true"></span><strong class="bad">stale</strong>${
            store.at ? html` since ${clock(store.at)}` : nothing}: ${state.why}${
            state.why.includes("token")
              ? html` <button @click=${again}>Enter it</button>`
              : html`; trying again`}`
    }</p>
    <p class="facts faint">
      ${store.at ? html`<span class="mono" aria-hidden="true">${clock(store.at)}</span>` : nothing}
      ${!state.live && store.at ? html`<span aria-hidden="true">(${count(age)} s ago)</span>` : nothing}
      ${system ? html`<span>${plural(store.table("nodes").size, "node")}</span>` : nothing}
      ${pages.map((one) => html`<a href=${one.path}>${one.title}</a> `)}
      <a href="/api">API</a>
    </p>`;
}

const SIGNS = { critical: "▲", warning: "◆", notice: "●" };

/** @param {import("./store.js").Store} store */
export function problems(store) {
  const found = store.rows("problems").sort((a, b) => a.rank - b.rank);
  const serious = found.filter((one) => one.severity !== "notice").length;
  return html`
    <h2 id="problems-title" class=${found.length > 0 && found[0].severity === "critical" ? "bad" : serious ? "warn" : "good"}>${verdict(store, found, serious)}</h2>
    <div role="status"><ul class="problems" aria-label="What is wrong">
      ${repeat(found, (one) => one.text, (one) => html`
        <li class=${one.severity}>
          <span class="sign" aria-hidden="true">${SIGNS[/** @type {"critical"} */ (one.severity)]}</span>
          <span class="severity">${one.severity}</span>
          <span>${one.text}</span>
          ${one.about === "system" ? nothing : html`<a href="#${one.about}"
            aria-label="See ${one.about}">see</a>`}
        </li>`)}
    </ul></div>`;
}

/**
 * @param {import("./store.js").Store} store
 * @param {any[]} found
 * @param {number} serious
 */
function verdict(store, found, serious) {
  if (!store.system) return "Waiting for the first look at the system ...";
  const critical = found.filter((one) => one.severity === "critical").length;
  if (critical) return `${plural(critical, "thing")} must be looked at now`;
  if (serious) return `${plural(serious, "thing")} should be looked at`;
  const resources = store.rows("services").reduce((sum, one) => sum + one.resources, 0);
  return `All well: ${plural(store.table("instances").size, "instance")} healthy, ` +
    `${plural(resources, "resource")} owned`;
}
