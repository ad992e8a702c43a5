// Services and their instances.

import { html, nothing } from "/static/vendor/lit-html/lit-html.js";
import { repeat } from "/static/vendor/lit-html/directives/repeat.js";
import { count, duration, plural, rate } from "./format.js";
import { state } from "./parts.js";

const PAGE = 50;

/** @param {import("./store.js").Store} store */
export function services(store) {
  const rows = store.rows("services").sort((a, b) => a.service_name.localeCompare(b.service_name));
  return html`
    <h2 id="services-title">Services</h2>
    <table aria-labelledby="services-title">
      <thead><tr>
        <th scope="col">Service</th><th scope="col" class="number">Healthy</th>
        <th scope="col" class="number">Resources</th><th scope="col" class="number">Waiting</th>
        <th scope="col" class="number">msg/s</th>
        <th scope="col" class="number wide">p50</th><th scope="col" class="number">p99</th>
      </tr></thead>
      <tbody>${repeat(rows, (one) => one.service_name, (one) => html`<tr>
        <th scope="row">${one.service_name}</th>
        <td class="number ${one.healthy < one.instances ? "bad" : ""}">${count(one.healthy)} of ${count(one.instances)}</td>
        <td class="number">${count(one.resources)}</td>
        <td class="number">${count(one.queue_depth)}</td>
        <td class="number">${rate(one.rate)}</td>
        <td class="number wide">${duration(one.p50_ms)}</td>
        <td class="number">${duration(one.p99_ms)}</td>
      </tr>`)}</tbody>
    </table>
    ${rows.length ? nothing : html`<p class="faint">None is registered.</p>`}`;
}

export class Instances {
  /**
   * @param {() => void} changed
   * @param {(instance: any) => void} disconnect
   */
  constructor(changed, disconnect) {
    this.changed = changed;
    this.disconnect = disconnect;
    this.filter = "";
    this.shown = PAGE;
  }

  /** @param {import("./store.js").Store} store */
  view(store) {
    const loads = store.table("loads");
    const nodes = store.table("nodes");
    const all = store.rows("instances");
    const wanted = this.filter.toLowerCase();
    const rows = all
      .filter((one) => `${one.service_name} ${one.instance_id} ${one.state} ${one.role}`.toLowerCase().includes(wanted))
      .sort((a, b) =>
        Number(a.state === "healthy") - Number(b.state === "healthy") ||
        a.service_name.localeCompare(b.service_name) || a.instance_id.localeCompare(b.instance_id));
    const change = (/** @type {InputEvent} */ event) => {
      this.filter = /** @type {HTMLInputElement} */ (event.target).value;
      this.shown = PAGE;
      this.changed();
    };
    const more = () => {
      this.shown += PAGE;
      this.changed();
    };
    return html`
      <div class="bar">
        <h2 id="instances-title">Instances <span class="faint">${count(all.length)}</span></h2>
        ${all.length > 5 ? html`<input type="search" placeholder="Filter" aria-label="Filter instances" @input=${change}>` : nothing}
      </div>
      <table aria-labelledby="instances-title">
        <thead><tr>
          <th scope="col">Instance</th><th scope="col">State</th>
          <th scope="col" class="number">Owns</th><th scope="col" class="number wide">Stands by</th>
          <th scope="col" class="number">Waiting</th><th scope="col" class="number wide">msg/s</th>
          <th scope="col" class="wide">Node</th><th scope="col"><span class="unseen">Action</span></th>
        </tr></thead>
        <tbody>${repeat(rows.slice(0, this.shown), (one) => one.instance_id, (one) => {
          const load = loads.get(one.instance_id);
          return html`<tr class=${one.state === "healthy" ? "" : "wrong"}>
            <th scope="row"><span class="faint">${one.service_name}@</span>${one.instance_id}</th>
            <td>${state(one.state)}${one.state === "healthy"
                ? html` <span class="faint">${role(one)}</span>` : html` ${one.cause}`}</td>
            <td class="number">${count(one.resources)}</td>
            <td class="number wide">${count(one.standby_for)}</td>
            <td class="number ${load?.stalled ? "warn" : ""}">${count(load?.depth)}${load?.stalled
                ? html` <span title="without progress">(${load.stalled} s)</span>` : nothing}</td>
            <td class="number wide">${rate(load?.rate)}</td>
            <td class="wide faint">${place(nodes.get(one.node_id), one.node_id)}</td>
            <td class="action"><button @click=${() => this.disconnect(one)}
              aria-label="Disconnect ${one.instance_id}">Disconnect…</button></td>
          </tr>`;
        })}</tbody>
      </table>
      ${rows.length > this.shown
        ? html`<p><button @click=${more}>Show more</button> <span class="faint">${plural(rows.length - this.shown, "more instance")}</span></p>`
        : rows.length ? nothing : html`<p class="faint">None${wanted ? " matches." : " is registered."}</p>`}`;
  }
}

/**
 * What an instance is by now, whatever it was started as.
 * @param {any} one
 */
const role = (one) =>
  [one.resources ? "active" : "", one.standby_for ? "standby" : ""].filter(Boolean).join(", ") || one.role;

/**
 * @param {any} node
 * @param {string} id
 */
export const place = (node, id) => (node?.pid ? `${node.host} pid ${node.pid}` : id);
