// The resources, page by page: the supervisors filter, so that ten thousand are no matter.

import { html, nothing } from "/static/vendor/lit-html/lit-html.js";
import { repeat } from "/static/vendor/lit-html/directives/repeat.js";
import { askJson } from "/static/session.js";
import { count } from "./format.js";
import { state } from "./parts.js";

const PAGE = 50;
const MAX_HOPS = 20; // A page may be short, and have one behind it all the same.
const REFRESH_MS = 3_000;
const TYPED_MS = 200;

export class Resources {
  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.contains = "";
    this.service = "";
    this.only = "";
    /** @type {(string | null)[]} where each page up to this one begins */
    this.marks = [null];
    /** @type {any[]} */
    this.rows = [];
    /** @type {string | null} */
    this.next = null;
    this.error = "";
    this.asked = 0;
    setInterval(() => document.hidden || this.load(), REFRESH_MS);
  }

  async load() {
    const asked = ++this.asked;
    try {
      /** @type {any[]} */
      const rows = [];
      let after = this.marks[this.marks.length - 1];
      for (let hop = 0; hop < MAX_HOPS; hop += 1) {
        const page = await askJson(`/api/v1/admin/resources?${this.query(PAGE - rows.length, after)}`);
        rows.push(...page.resources);
        after = page.next;
        if (after === null || rows.length >= PAGE) break;
      }
      if (asked !== this.asked) return; // Something else has been asked for meanwhile.
      this.rows = rows;
      this.next = after;
      this.error = "";
    } catch (error) {
      if (asked !== this.asked) return;
      this.error = /** @type {Error} */ (error).message;
    }
    this.changed();
  }

  /**
   * @param {number} limit
   * @param {string | null} after
   */
  query(limit, after) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (after !== null) query.set("after", after);
    if (this.contains) query.set("contains", this.contains);
    if (this.service) query.set("service", this.service);
    if (this.only) query.set("only", this.only);
    return query;
  }

  /**
   * @param {"contains" | "service" | "only"} field
   * @param {Event} event
   */
  choose(field, event) {
    this[field] = /** @type {HTMLInputElement} */ (event.target).value.trim();
    this.marks = [null];
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.load(), TYPED_MS);
  }

  /** @param {number} step */
  turn(step) {
    if (step > 0) this.marks.push(this.next);
    else this.marks.pop();
    this.load();
  }

  /** @param {import("./store.js").Store} store */
  view(store) {
    const services = store.rows("services").map((one) => one.service_name).sort();
    const all = store.rows("services").reduce((sum, one) => sum + one.resources, 0);
    return html`
      <div class="bar">
        <h2 id="resources-title">Resources <span class="faint">${count(all)}</span></h2>
        <input type="search" placeholder="Part of an id" aria-label="Show resources whose id contains"
          @input=${(/** @type {Event} */ event) => this.choose("contains", event)}>
        <select aria-label="Service" @change=${(/** @type {Event} */ event) => this.choose("service", event)}>
          <option value="">all services</option>
          ${repeat(services, (name) => name, (name) => html`<option value=${name}>${name}</option>`)}
        </select>
        <select aria-label="Condition" @change=${(/** @type {Event} */ event) => this.choose("only", event)}>
          <option value="">in any state</option>
          <option value="unhealthy">owner unhealthy</option>
          <option value="alone">no standby</option>
        </select>
      </div>
      <table aria-labelledby="resources-title">
        <thead><tr>
          <th scope="col">Resource</th><th scope="col">Active</th>
          <th scope="col">Standbys (lag)</th>
          <th scope="col" class="number wide">Epoch</th>
        </tr></thead>
        <tbody>${repeat(this.rows, (one) => `${one.service_name}/${one.resource_id}`, (one) => html`<tr
            class=${one.state === "healthy" ? "" : "wrong"}>
          <th scope="row"><span class="faint">${one.service_name}/<wbr></span>${one.resource_id}</th>
          <td>${one.instance_id}${one.state === "healthy" ? nothing : html` ${state(one.state)}`}</td>
          <td>${one.standbys.length ? one.standbys.map(standby) : html`<span class="warn">none</span>`}</td>
          <td class="number wide">${count(one.epoch)}</td>
        </tr>`)}</tbody>
      </table>
      ${this.error ? html`<p class="bad" role="alert">${this.error}</p>` : nothing}
      ${this.rows.length || this.error ? nothing : html`<p class="faint">None${this.contains || this.service || this.only ? " matches." : "."}</p>`}
      ${this.marks.length > 1 || this.next !== null ? html`<nav class="pages" aria-label="Pages of resources">
        <button ?disabled=${this.marks.length === 1} @click=${() => this.turn(-1)}>Previous</button>
        <span>page ${count(this.marks.length)}</span>
        <button ?disabled=${this.next === null} @click=${() => this.turn(1)}>Next</button>
      </nav>` : nothing}`;
  }
}

/** @param {any} one */
function standby(one) {
  // The lag counts the records of all journals: 0 is exact, more is an upper bound.
  const lag = one.lag == null ? "?" : one.lag === 0 ? "0" : `≤ ${count(one.lag)}`;
  return html`<span class="standby">${one.instance_id} ${one.state === "healthy"
      ? html`<span class="faint">${lag}</span>` : state(one.state)}</span>`;
}
