// The stream of server-sent events. Not by EventSource, which cannot send the bearer token.

import { ask } from "/static/session.js";

const ADDRESS = "/api/v1/admin/live";
const SILENCE_MS = 4_000; // The node says something each second.
const LONGEST_RETRY_MS = 5_000;

export class Stream {
  /**
   * @param {(message: any) => void} onMessage
   * @param {(state: {live: boolean, why: string}) => void} onState
   * @param {string} [address] of the stream; that of the live page if there is none
   */
  constructor(onMessage, onState, address = ADDRESS) {
    this.onMessage = onMessage;
    this.onState = onState;
    this.address = address;
    this.lastId = "";
    this.retryMs = 1_000;
  }

  /** Follow the stream, and come back whenever it ends. Returns if it wants a token. */
  async run() {
    for (let failures = 0; ; failures += 1) {
      let why = "the node ended the stream";
      const begun = Date.now();
      try {
        const response = await this.connect();
        if (response.status === 401) {
          this.onState({ live: false, why: "this node wants its token" });
          return;
        }
        if (!response.ok) why = (await response.json()).detail;
        else await this.follow(response);
      } catch (error) {
        why = this.silent ? "the node has fallen silent" : "the node cannot be reached";
        console.debug(error);
      }
      this.onState({ live: false, why });
      if (Date.now() - begun > 10_000) failures = 0;
      const wait = Math.min(this.retryMs * 2 ** failures, LONGEST_RETRY_MS);
      await new Promise((resolve) => setTimeout(resolve, failures ? wait : 200));
    }
  }

  connect() {
    this.silent = false;
    this.abort = new AbortController();
    /** @type {Record<string, string>} */
    const headers = this.lastId ? { "Last-Event-ID": this.lastId } : {};
    return ask(this.address, { headers, signal: this.abort.signal });
  }

  /** @param {Response} response */
  async follow(response) {
    if (!response.body) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const watch = setTimeout(() => {
        this.silent = true;
        this.abort?.abort();
      }, SILENCE_MS);
      const { value, done } = await reader.read().finally(() => clearTimeout(watch));
      if (done) return;
      const events = (text + value).split("\n\n");
      text = events.pop() ?? "";
      for (const event of events) this.take(event);
    }
  }

  /** @param {string} event */
  take(event) {
    let data = "";
    for (const line of event.split("\n")) {
      if (line.startsWith("id: ")) this.lastId = line.slice(4);
      else if (line.startsWith("retry: ")) this.retryMs = Number(line.slice(7));
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (data) {
      this.onMessage(JSON.parse(data));
      this.onState({ live: true, why: "" });
    }
  }
}
