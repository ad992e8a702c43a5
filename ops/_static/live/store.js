// What the page knows: the tables of the stream, put together message by message.

/**
 * @typedef {{at: number, reset: boolean, rows: Record<string, Record<string, any>>,
 *   gone: Record<string, string[]>, samples: (number | null)[][]}} LiveMessage
 */

const MAX_SAMPLES = 600;

export class Store {
  constructor() {
    /** @type {Record<string, Map<string, any>>} */
    this.tables = {};
    /** @type {(number | null)[][]} */
    this.samples = [];
    this.at = 0;
  }

  /** @param {LiveMessage} message */
  take(message) {
    if (message.reset) {
      this.tables = {};
      this.samples = [];
    }
    this.at = message.at;
    for (const [name, rows] of Object.entries(message.rows)) {
      const table = this.table(name);
      for (const [key, row] of Object.entries(rows)) table.set(key, row);
    }
    for (const [name, keys] of Object.entries(message.gone)) {
      for (const key of keys) this.table(name).delete(key);
    }
    this.samples = [...this.samples, ...message.samples].slice(-MAX_SAMPLES);
  }

  /** @param {string} name */
  table(name) {
    return (this.tables[name] ??= new Map());
  }

  /** @param {string} name */
  rows(name) {
    return [...this.table(name).values()];
  }

  get system() {
    return this.table("system").get("");
  }
}
