// The log of failovers, what has no owner since, and the dead letters.

import { html, nothing, svg } from "/static/vendor/lit-html/lit-html.js";
import { repeat } from "/static/vendor/lit-html/directives/repeat.js";
import { count, duration, moment, plural, some } from "./format.js";

const SHOWN = 12;
const STEPS = ["detected", "decided", "fenced", "replayed", "covered"];

/**
 * A list of which only the first rows are shown until all are asked for.
 * @template T
 * @param {T[]} rows
 * @param {{all: boolean}} folding
 * @param {() => void} changed
 */
function folded(rows, folding, changed) {
  const shown = folding.all ? rows : rows.slice(0, SHOWN);
  const toggle = () => {
    folding.all = !folding.all;
    changed();
  };
  const button = rows.length > SHOWN
    ? html`<p><button @click=${toggle} aria-expanded=${folding.all}>${folding.all ? "Show fewer" : `Show all ${count(rows.length)}`}</button></p>`
    : nothing;
  return { shown, button };
}

export class Failovers {
  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.folding = { all: false };
  }

  /** @param {import("./store.js").Store} store */
  view(store) {
    const rows = store.rows("failovers").sort((a, b) => b.at - a.at);
    const { shown, button } = folded(rows, this.folding, this.changed);
    const longest = Math.max(...shown.map((one) => one.total_ms ?? 0), 1);
    return html`
      <h2 id="failovers-title">Failovers <span class="faint">${rows.length ? count(rows.length) : ""}</span></h2>
      <div role="log" aria-live="polite" aria-labelledby="failovers-title"><ol class="log">
        ${repeat(shown, (one) => one.id, (one) => html`<li class=${one.serving < one.resources ? "open" : ""}>
          <time class="mono" title=${one.trace_id ? `trace ${one.trace_id}` : nothing}>${moment(one.at)}</time>
          <span class="what"><b>${some(one.resource_ids, one.resources, 2)}</b>
            <span class="faint">${one.service_name}</span></span>
          <span class="total number">${one.total_ms != null ? duration(one.total_ms)
              : one.serving === one.resources ? html`<span class="faint" title="Nobody told how it ended">?</span>`
              : html`<strong class="bad">${one.serving ? `${count(one.serving)} of ${count(one.resources)}` : "under way"}</strong>`}</span>
          <span class="how">${one.old_instance_id} <span aria-label="to">→</span> ${one.new_instance_id}
            <span class="faint">${one.cause}</span></span>
          ${one.total_ms == null ? nothing : steps(one, longest)}
        </li>`)}
      </ol></div>
      ${button}
      ${rows.length ? html`<p class="key faint" aria-hidden="true">${STEPS.map((step, index) =>
            html`<span><i class="step${index + 1}"></i>${step}</span>`)}</p>`
          : html`<p class="faint">None is known.</p>`}`;
  }
}

/**
 * Where the time of a failover went, to scale with the others.
 * @param {any} one
 * @param {number} longest
 */
function steps(one, longest) {
  const ends = [one.detected_ms, one.detected_ms + one.decided_ms];
  for (const step of ["fenced", "replayed", "covered"]) ends.push(ends[1] + (one[`${step}_ms`] ?? 0));
  const words = STEPS.map((step, index) => `${step} ${duration(ends[index] - (ends[index - 1] ?? 0))}`).join(", ");
  return html`<svg class="steps" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label=${words}>
    <title>${words}</title>
    ${STEPS.map((_, index) => {
      const from = ((ends[index - 1] ?? 0) / longest) * 100;
      return svg`<rect class="step${index + 1}" x=${from} width=${Math.max(0, (ends[index] / longest) * 100 - from)} height="4"></rect>`;
    })}
  </svg>`;
}

/** @param {import("./store.js").Store} store */
export function orphans(store) {
  const rows = store.rows("orphans").sort((a, b) => b.at - a.at);
  if (!rows.length) return nothing;
  return html`
    <h2 id="orphans-title" class="bad">Without an owner</h2>
    <ul class="log" aria-labelledby="orphans-title">
      ${repeat(rows, (one) => one.id, (one) => html`<li>
        <time class="mono">${moment(one.at)}</time>
        <span class="what"><b>${some(one.resource_ids, one.resources, 6)}</b> <span class="faint">${one.service_name}</span></span>
        <span class="total number">${plural(one.resources, "resource")}</span>
        <span class="how">lost with ${one.instance_id} <span class="faint">${one.cause}</span></span>
      </li>`)}
    </ul>`;
}

export class Letters {
  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.folding = { all: false };
  }

  /** @param {import("./store.js").Store} store */
  view(store) {
    const rows = store.rows("letters").sort((a, b) => b.at - a.at);
    const { shown, button } = folded(rows, this.folding, this.changed);
    const all = store.system?.letters ?? rows.length;
    return html`
      <h2 id="letters-title">Dead letters <span class="faint">${all ? count(all) : ""}</span></h2>
      <ul class="log" aria-labelledby="letters-title">
        ${repeat(shown, (one) => one.sequence, (one) => html`<li>
          <time class="mono">${moment(one.at)}</time>
          <span class="what"><b>${one.resource_id}</b> <span class="faint">${one.service_name}</span> ${one.method}</span>
          <span class="total number mono">${one.sequence}</span>
          <span class="how">${one.reason}${one.uncertain ? html` <b class="warn">may have taken effect</b>` : nothing}</span>
        </li>`)}
      </ul>
      ${button}
      <p class="faint">${all ? html`<code>aegis dead-letters show|replay|drop ID</code>` : "None."}</p>`;
  }
}
