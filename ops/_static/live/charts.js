// The plots of the last minutes. They share their time axis and their cursor.

import uPlot from "/static/vendor/uplot/uPlot.esm.js";
import { element } from "/static/session.js";
import { clock, count, duration, rate } from "./format.js";

const HEIGHT = 116;
const WINDOW_SECONDS = 300;

// Columns of a sample: at, rate, depth, median, p99 of handlers, p99 of commits.
const CHARTS = [
  { title: "Messages", series: [{ column: 1, label: "per second", color: "--line-1", format: rate, fill: true }] },
  { title: "Waiting", series: [{ column: 2, label: "in mailboxes", color: "--line-2", format: count, fill: true }] },
  {
    title: "Latency",
    log: true,
    series: [
      { column: 3, label: "p50", color: "--line-1", format: duration },
      { column: 4, label: "p99", color: "--line-2", format: duration },
      { column: 5, label: "commit p99", color: "--line-3", format: duration },
    ],
  },
];

// Half a message does not wait.
const STEPS = [1, 2, 5].flatMap((step) => [0, 1, 2, 3, 4, 5, 6].map((power) => step * 10 ** power)).sort((a, b) => a - b);

/** @param {string} name */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Charts {
  /**
   * @param {HTMLElement} place
   * @param {any[]} [charts] what is drawn; that of the live page if nothing is given
   */
  constructor(place, charts = CHARTS) {
    /** @type {(number | null)[][]} */
    this.samples = [];
    this.charts = charts.map((chart) => new Chart(chart));
    place.append(...this.charts.map((chart) => chart.figure));
    const redraw = () => this.charts.forEach((chart) => chart.draw(this.samples));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    new ResizeObserver(() => this.charts.forEach((chart) => chart.resize())).observe(place);
  }

  /** @param {(number | null)[][]} samples */
  show(samples) {
    this.samples = samples;
    for (const chart of this.charts) chart.show(samples);
  }
}

class Chart {
  /** @param {any} chart */
  constructor(chart) {
    this.chart = chart;
    this.values = chart.series.map(() => element("b"));
    this.at = element("span", { class: "faint mono" });
    const legend = chart.series.map((/** @type {any} */ one, /** @type {number} */ index) =>
      element("span", { class: "series" },
        element("i", { class: `key${index + 1}`, "aria-hidden": "true" }),
        this.values[index], ` ${one.label}`));
    // A key for a line of its own says nothing.
    this.place = element("div", { "aria-hidden": "true" });
    this.figure = element("figure", { class: chart.series.length > 1 ? "keyed" : "" },
      element("figcaption", {}, element("span", { class: "title" }, chart.title), " ", ...legend, this.at),
      this.place);
    /** @type {any} */
    this.plot = null;
  }

  /** @param {(number | null)[][]} samples */
  show(samples) {
    if (!this.plot) this.draw(samples);
    else this.plot.setData(this.data(samples));
    if (this.plot && this.plot.cursor.idx == null) this.tell(samples.length - 1);
  }

  /** @param {(number | null)[][]} samples */
  data(samples) {
    this.samples = samples;
    // Of logarithms 0 has none.
    const least = this.chart.log ? 0.001 : null;
    return [0, ...this.chart.series.map((/** @type {any} */ one) => one.column)].map((column) =>
      samples.map((sample) => {
        const value = sample[column];
        return least !== null && column > 0 && value !== null ? Math.max(least, value) : value;
      }));
  }

  /** @param {number | null | undefined} index */
  tell(index) {
    const sample = index == null ? undefined : this.samples?.[index];
    const latest = !this.samples || index === this.samples.length - 1;
    this.chart.series.forEach((/** @type {any} */ one, /** @type {number} */ number) => {
      this.values[number].textContent = one.format(sample?.[one.column]);
    });
    this.at.textContent = latest || !sample ? "" : ` at ${clock(sample[0] ?? 0)}`;
  }

  /** @param {(number | null)[][]} samples */
  draw(samples) {
    this.plot?.destroy();
    const axis = {
      stroke: color("--faint"),
      grid: { stroke: color("--line"), width: 0.5 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      gap: 2,
    };
    // On a logarithmic axis only the powers of ten.
    const whole = this.chart.log
      ? (/** @type {any} */ _, /** @type {number[]} */ all) => all.map((one) => (Math.abs(Math.log10(one) % 1) < 1e-6 ? one : null))
      : undefined;
    this.plot = new uPlot({
      width: this.place.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "aegis" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: {
          range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ last) =>
            [(last || Date.now() / 1000) - WINDOW_SECONDS, last || Date.now() / 1000],
        },
        y: this.chart.log
          ? { distr: 3, range: (/** @type {any} */ _, /** @type {number} */ low, /** @type {number} */ high) =>
              [10 ** Math.floor(Math.log10(low || 0.1)), 10 ** Math.ceil(Math.log10(Math.max(high || 10, (low || 0.1) * 10)))] }
          : { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ high) => [0, Math.max(1, high || 0) * 1.1] },
      },
      axes: [
        { ...axis, size: 20, space: 60, values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map((one) => clock(one).slice(0, 5)) },
        { ...axis, size: 46, space: 24, incrs: this.chart.log ? undefined : STEPS, ...(whole && { grid: { ...axis.grid, filter: whole }, filter: whole }), values: (/** @type {any} */ _, /** @type {(number | null)[]} */ all) =>
            all.map((one) => (one == null ? "" : this.chart.series[0].format(one))), },
      ],
      series: [{}, ...this.chart.series.map((/** @type {any} */ one) => ({
        stroke: color(one.color),
        width: 1.5,
        fill: one.fill ? `${color(one.color)}22` : undefined,
        points: { show: false },
      }))],
      hooks: {
        setCursor: [(/** @type {any} */ plot) => this.tell(plot.cursor.idx ?? (this.samples?.length ?? 0) - 1)],
      },
    }, /** @type {any} */ (this.data(samples)), this.place);
  }

  resize() {
    this.plot?.setSize({ width: this.place.clientWidth, height: HEIGHT });
  }
}
