// Figures and times as the page words them.

const NUMBER = new Intl.NumberFormat("en");
const SMALL = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** @param {number | null | undefined} value */
export const count = (value) => (value == null ? "–" : NUMBER.format(value));

/** @param {number | null | undefined} value */
export const rate = (value) => (value == null ? "–" : SMALL.format(value));

/**
 * @param {number | null | undefined} value milliseconds
 * @returns {string} with a unit that keeps it short
 */
export function duration(value) {
  if (value == null) return "–";
  if (value < 1) return `${SMALL.format(value * 1000)} µs`;
  if (value < 1000) return `${SMALL.format(value)} ms`;
  if (value < 120_000) return `${SMALL.format(value / 1000)} s`;
  return `${SMALL.format(value / 60_000)} min`;
}

/** @param {number} seconds Unix time */
export const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour12: false });

/** @param {number} seconds Unix time; the date is said where it is not today's */
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  if (at.toDateString() === new Date().toDateString()) return clock(seconds);
  return `${at.toLocaleDateString("en-CA")} ${clock(seconds)}`;
}

/**
 * @param {number} number
 * @param {string} one
 */
export const plural = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;

/**
 * The first names of a list that may be long.
 * @param {string[]} names
 * @param {number} all how many there are
 */
export function some(names, all, shown = 3) {
  const more = all - Math.min(shown, names.length);
  return names.slice(0, shown).join(", ") + (more > 0 ? ` +${count(more)}` : "");
}
