// The market page: how each feed does, and how well each exchange is covered by one of them.

import { html, nothing, render } from "/static/vendor/lit-html/lit-html.js";
import { repeat } from "/static/vendor/lit-html/directives/repeat.js";
import { Charts } from "/static/live/charts.js";
import { clock, count, duration, plural, rate } from "/static/live/format.js";
import { state as told } from "/static/live/parts.js";
import { Stream } from "/static/live/stream.js";

const ADDRESS = "/api/v1/admin/pages/market/live";
const MAX_SAMPLES = 600;
const RATE_SECONDS = 4; // Rates are of the last few seconds: bursts come twice in each.
const SIGNS = { critical: "▲", degraded: "◆" };
const SEVERITIES = { critical: "critical", degraded: "warning" };

/** @param {number | null | undefined} value */
const percent = (value) => (value == null ? "–" : `${Math.floor(value * 100) / 100} %`);

// Columns of what is drawn: at, ticks a second, lag p50 and p99 in milliseconds, coverage.
const CHARTS = [
  { title: "Ticks", series: [{ column: 1, label: "per second", color: "--line-1", format: rate, fill: true }] },
  {
    title: "Lag",
    log: true,
    series: [
      { column: 2, label: "p50", color: "--line-1", format: duration },
      { column: 3, label: "p99", color: "--line-2", format: duration },
    ],
  },
  { title: "Coverage", series: [{ column: 4, label: "of what is wanted", color: "--line-3", format: percent, fill: true }] },
];

/** @param {string} id */
const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {any[]} */
let feeds = [];
/** @type {Map<string, (number | null)[][]>} */
const samples = new Map();
/** @type {{at: number, news: Map<string, number>}[]} counts of the last seconds, by feed and exchange */
let history = [];
let at = 0;
let chosen = ""; // A feed; empty for whichever publishes.
let stream = { live: false, why: "connecting" };
let drawing = false;

/** @param {any} message */
function take(message) {
  at = message.at;
  feeds = message.instances.map((/** @type {any} */ one) => ({ ...one, ...one.told, name: one.instance_id }));
  if (message.reset) {
    samples.clear();
    history = [];
  }
  for (const [name, news] of Object.entries(message.samples)) {
    samples.set(name, [...(samples.get(name) ?? []), .../** @type {any} */ (news)].slice(-MAX_SAMPLES));
  }
  const news = new Map();
  for (const feed of feeds) {
    if (feed.told) news.set(feed.name, feed.news);
    for (const one of feed.exchanges ?? []) news.set(`${feed.name} ${one.exchange}`, one.news);
  }
  history = [...history, { at, news }].filter((one) => one.at >= at - RATE_SECONDS - 0.5);
}

/**
 * Ticks a second of a feed, or of one of its exchanges, over the last few seconds.
 * @param {string} name
 */
function perSecond(name) {
  const first = history.find((one) => one.news.has(name));
  const last = history[history.length - 1];
  if (!first || !last || last.at - first.at < 0.5 || !last.news.has(name)) return null;
  const grown = /** @type {number} */ (last.news.get(name)) - /** @type {number} */ (first.news.get(name));
  return Math.max(0, grown) / (last.at - first.at);
}

/**
 * Samples with a rate where the count was.
 * @param {(number | null)[][]} kept
 */
function drawn(kept) {
  return kept.map((sample, index) => {
    const before = kept[Math.max(0, index - RATE_SECONDS)];
    const seconds = (sample[0] ?? 0) - (before[0] ?? 0);
    const known = seconds > 0 && sample[1] != null && before[1] != null;
    const grown = known ? /** @type {number} */ (sample[1]) - /** @type {number} */ (before[1]) : null;
    return [sample[0], grown === null ? null : Math.max(0, grown) / seconds, ...sample.slice(2)];
  });
}

const publisher = () => feeds.find((one) => one.publishing) ?? feeds.find((one) => one.role === "active");
const shown = () => feeds.find((one) => one.name === chosen) ?? publisher() ?? feeds.find((one) => one.told) ?? feeds[0];

// -- sections -------------------------------------------------------------------------------

function head() {
  return html`
    <h1><img src="/static/icon.svg" alt="" width="22" height="22"> Market</h1>
    <p class="stream" role="status">${
      stream.live
        ? html`<span class="dot good" aria-hidden="true"></span>live`
        : html`<span class="dot bad" aria-hidden="true"></span><strong class="bad">stale</strong>${
            at ? html` since ${clock(at)}` : nothing}: ${stream.why}${
            stream.why.includes("token")
              ? html` <button @click=${follow}>Enter it</button>`
              : html`; trying again`}`
    }</p>
    <p class="facts faint">
      ${at ? html`<span class="mono" aria-hidden="true">${clock(at)}</span>` : nothing}
      <a href="/">System</a> <a href="/api">API</a>
    </p>`;
}

/** What is wrong: of the feed that publishes all, of others that they could not take over. */
function problems() {
  /** @type {{verdict: "critical" | "degraded", text: string}[]} */
  const found = [];
  const active = publisher();
  if (feeds.length && !active) found.push({ verdict: "critical", text: "No feed publishes." });
  for (const feed of feeds) {
    if (!feed.told) {
      found.push({ verdict: feed === active ? "critical" : "degraded", text: `${feed.name} does not answer: ${feed.error}` });
    } else if (feed === active || !active) {
      for (const one of feed.findings) found.push({ verdict: one.verdict, text: `${feed.name}: ${one.text}` });
    } else if (feed.state !== "ready") {
      const why = feed.failure?.reason ? `: ${feed.failure.reason}` : "";
      found.push({ verdict: "degraded", text: `${feed.name} could not take over: it is ${words(feed.state)}${why}` });
    }
  }
  if (active && feeds.length === 1) found.push({ verdict: "degraded", text: "No feed stands by." });
  found.sort((a, b) => a.verdict.localeCompare(b.verdict)); // "critical" is before "degraded".
  const critical = found.filter((one) => one.verdict === "critical").length;
  const verdict = !at ? "Waiting for the first look at the feeds ..."
    : !feeds.length ? "No feed is registered"
    : critical ? `${plural(critical, "thing")} must be looked at now`
    : found.length ? `${plural(found.length, "thing")} should be looked at`
    : `All well: ${active?.name} publishes, ${plural(feeds.length - 1, "feed")} stand${feeds.length === 2 ? "s" : ""} by`;
  return html`
    <h2 id="problems-title" class=${critical ? "bad" : found.length ? "warn" : "good"}>${verdict}</h2>
    <div role="status"><ul class="problems" aria-label="What is wrong">
      ${repeat(found, (one) => one.text, (one) => html`<li class=${SEVERITIES[one.verdict]}>
        <span class="sign" aria-hidden="true">${SIGNS[one.verdict]}</span>
        <span class="severity">${SEVERITIES[one.verdict]}</span>
        <span>${one.text}</span>
      </li>`)}
    </ul></div>`;
}

/** @param {string | undefined} word */
const words = (word) => (word ?? "unknown").replaceAll("_", " ");

function feedTable() {
  return html`
    <h2 id="feeds-title">Feeds</h2>
    <table aria-labelledby="feeds-title">
      <thead><tr>
        <th scope="col">Feed</th><th scope="col">Role</th><th scope="col">State</th>
        <th scope="col" class="number">Ticks/s</th><th scope="col" class="number">Lag p99</th>
        <th scope="col" class="number wide">Lag p50</th><th scope="col" class="number wide">Waiting</th>
        <th scope="col" class="number wide">Contracts</th><th scope="col" class="number wide">Reconnects</th>
        <th scope="col" class="number wide">Restarts</th><th scope="col" class="number wide">Epoch</th>
      </tr></thead>
      <tbody>${repeat(feeds, (one) => one.name, (one) => html`<tr class=${one.told ? "" : "wrong"}>
        <th scope="row">${one.name}</th>
        <td class="role">${one.publishing ? html`<b>publishes</b>` : one.role === "active" ? html`<span class="bad">active, mute</span>` : one.role ?? "–"}</td>
        <td>${one.told ? told(one.state === "ready" ? "ok" : words(one.state)) : told("silent")}</td>
        <td class="number">${rate(perSecond(one.name))}</td>
        <td class="number">${duration(one.lag_p99 == null ? null : one.lag_p99 * 1000)}</td>
        <td class="number wide">${duration(one.lag_p50 == null ? null : one.lag_p50 * 1000)}</td>
        <td class="number wide">${count(one.waiting)}</td>
        <td class="number wide">${count(one.contracts)}</td>
        <td class="number wide">${count(one.disconnects)}</td>
        <td class="number wide">${count(one.process?.restarts)}</td>
        <td class="number wide">${one.epoch ? count(one.epoch) : "–"}</td>
      </tr>`)}</tbody>
    </table>
    ${feeds.length ? nothing : html`<p class="faint">None is registered.</p>`}`;
}

const PHASES = { open: "good", break: "warn", closed: "faint" };

/** @param {Event} event */
function choose(event) {
  chosen = /** @type {HTMLSelectElement} */ (event.target).value;
  draw();
}

function exchangeTable() {
  const feed = shown();
  return html`
    <div class="bar">
      <h2 id="exchanges-title">Exchanges <span class="faint">${feed ? `as ${feed.name} has them` : ""}</span></h2>
      ${feeds.length > 1 ? html`<select aria-label="Whose view of the exchanges" @change=${choose}>
        <option value="">the feed that publishes</option>
        ${repeat(feeds, (one) => one.name, (one) => html`<option value=${one.name}>${one.name}</option>`)}
      </select>` : nothing}
    </div>
    <table aria-labelledby="exchanges-title">
      <thead><tr>
        <th scope="col">Exchange</th><th scope="col">Phase</th>
        <th scope="col" class="share">Covered</th>
        <th scope="col" class="number">Ticks/s</th>
        <th scope="col" class="number">Missing</th><th scope="col" class="number">Stalled</th>
        <th scope="col" class="number wide">Last tick</th>
      </tr></thead>
      <tbody>${repeat(feed?.exchanges ?? [], (one) => one.exchange, (one) => html`<tr class=${one.silent ? "wrong" : ""}>
        <th scope="row">${one.exchange}</th>
        <td class=${PHASES[/** @type {"open"} */ (one.phase)] ?? ""}>${one.silent ? html`<b class="bad">silent</b>` : one.phase}</td>
        <td class="share">${percent(100 * one.ratio)} <span class="faint wide">${count(one.covered)} of ${count(one.wanted)}</span>
          <meter min="0" max="1" low="0.95" high="0.995" optimum="1" .value=${one.ratio}
            aria-label="Coverage of ${one.exchange}"></meter></td>
        <td class="number">${rate(perSecond(`${feed.name} ${one.exchange}`))}</td>
        <td class="number ${one.missing_count && one.phase === "open" ? "warn" : ""}">${count(one.missing_count)}</td>
        <td class="number ${one.stalled_count ? "warn" : ""}">${count(one.stalled_count)}</td>
        <td class="number wide">${one.quiet_seconds == null ? "–" : `${duration(one.quiet_seconds * 1000)} ago`}</td>
      </tr>`)}</tbody>
    </table>
    ${feed?.exchanges?.length ? nothing : html`<p class="faint">Nothing is subscribed.</p>`}`;
}

function contracts() {
  const feed = shown();
  /** @type {{kind: string, exchange: string, names: string[], all: number}[]} */
  const lists = (feed?.exchanges ?? []).flatMap((/** @type {any} */ one) =>
    ["missing", "stalled"].map((kind) => ({ kind, exchange: one.exchange, names: one[kind], all: one[`${kind}_count`] })))
    .filter((/** @type {any} */ one) => one.all);
  return html`
    <h2 id="contracts-title">Missing and stalled contracts</h2>
    ${lists.length ? nothing : html`<p class="faint">None.</p>`}
    ${repeat(lists, (one) => `${one.kind} ${one.exchange}`, (one) => html`
      <h3>${count(one.all)} ${one.kind} at ${one.exchange}</h3>
      <p class="names">${one.names.map((name) => html`<span>${name.slice(name.indexOf(".") + 1)}</span>`)}${
        one.all > one.names.length ? html`<span class="faint">and ${count(one.all - one.names.length)} more</span>` : nothing}</p>`)}`;
}

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    render(head(), part("head"));
    render(problems(), part("problems"));
    render(feedTable(), part("feeds"));
    render(exchangeTable(), part("exchanges"));
    render(contracts(), part("contracts"));
    charts.show(drawn(samples.get(shown()?.name) ?? []));
    document.body.classList.toggle("stale", !stream.live && at > 0);
    document.title = `${stream.live ? "" : "stale: "}Market`;
  });
}

const charts = new Charts(part("charts"), CHARTS);
const source = new Stream(
  (message) => {
    take(message);
    draw();
  },
  (now) => {
    stream = now;
    draw();
  },
  ADDRESS,
);

function follow() {
  stream = { live: false, why: "connecting" };
  draw();
  source.run();
}

follow();
