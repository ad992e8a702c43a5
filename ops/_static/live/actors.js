// The actor tree: the nodes, and below each its actors, asked for when it is opened.

import { html, nothing } from "/static/vendor/lit-html/lit-html.js";
import { repeat } from "/static/vendor/lit-html/directives/repeat.js";
import { askJson } from "/static/session.js";
import { count, plural } from "./format.js";
import { place } from "./instances.js";
import { state } from "./parts.js";

const REFRESH_MS = 3_000;
const STEP = 20;

export class Actors {
  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    /** @type {Map<string, {actors: any[], error: string, most: number}>} by node */
    this.opened = new Map();
    setInterval(() => document.hidden || [...this.opened.keys()].forEach((id) => this.load(id)), REFRESH_MS);
  }

  /** @param {string} id */
  async load(id) {
    const known = this.opened.get(id);
    if (!known) return;
    try {
      const found = await askJson(`/api/v1/admin/nodes/${encodeURIComponent(id)}?actors=${known.most}`);
      known.actors = found.actors;
      known.error = "";
    } catch (error) {
      known.error = /** @type {Error} */ (error).message;
    }
    this.changed();
  }

  /**
   * @param {string} id
   * @param {Event} event
   */
  toggle(id, event) {
    const open = /** @type {HTMLDetailsElement} */ (event.target).open;
    if (!open) this.opened.delete(id);
    else if (!this.opened.has(id)) {
      this.opened.set(id, { actors: [], error: "", most: STEP });
      this.load(id);
    }
  }

  /** @param {import("./store.js").Store} store */
  view(store) {
    const leader = store.system?.leader;
    const nodes = store.rows("nodes").sort((a, b) => a.node_id.localeCompare(b.node_id));
    const instances = store.rows("instances");
    return html`
      <h2 id="nodes-title">Nodes and their actors <span class="faint">${count(nodes.length)}</span></h2>
      ${repeat(nodes, (one) => one.node_id, (one) => html`<details
          @toggle=${(/** @type {Event} */ event) => this.toggle(one.node_id, event)}>
        <summary>
          ${state(one.beats === "ok" ? one.status || "ok" : one.beats)}
          <b>${place(one, one.node_id)}</b>
          ${one.node_id === leader ? html`<span class="badge">leader</span>`
            : one.candidate ? html`<span class="faint">could lead</span>` : nothing}
          <span class="faint">${instances.filter((i) => i.node_id === one.node_id).map((i) => i.instance_id).join(", ")}</span>
          ${one.node_id === store.system?.node_id ? html`<span class="faint">(this page comes from it)</span>` : nothing}
        </summary>
        ${this.tree(one.node_id)}
      </details>`)}`;
  }

  /** @param {string} id */
  tree(id) {
    const known = this.opened.get(id);
    if (!known) return nothing;
    if (known.error) return html`<p class="bad" role="alert">${known.error}</p>`;
    const more = () => {
      known.most = Math.min(known.most * 10, 1_000);
      this.load(id);
    };
    return html`
      <div class="scroll" tabindex="0" role="region" aria-label="Actors of ${id}"><table>
        <thead><tr><th scope="col">Actor</th><th scope="col">State</th>
          <th scope="col" class="number">Waiting</th><th scope="col" class="number">Ended</th>
          <th scope="col" class="number wide">Restarts</th></tr></thead>
        <tbody>${repeat(known.actors, (one) => one.address, (one) => {
          const parts = one.address.split("/").filter(Boolean);
          return html`<tr>
            <th scope="row" class="depth${Math.min(parts.length, 6)}"><span class="unseen">${parts.slice(0, -1).map((/** @type {string} */ part) => `${part} / `)}</span>${
              decoded(parts[parts.length - 1] ?? "/")} <span class="faint wide">${one.kind}</span>${
              one.left_out ? html` <button @click=${more}>${plural(one.left_out, "more")}</button>` : nothing}</th>
            <td>${state(one.state)}</td>
            <td class="number">${count(one.queue_depth)}</td>
            <td class="number">${count(one.processed)}</td>
            <td class="number wide ${one.restarts ? "warn" : ""}">${count(one.restarts)}</td>
          </tr>`;
        })}</tbody>
      </table></div>`;
  }
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
