// The live page: follows the stream, and draws what has changed, at most once a frame.

import { render } from "/static/vendor/lit-html/lit-html.js";
import { askJson } from "/static/session.js";
import { Actors } from "./actors.js";
import { Charts } from "./charts.js";
import { disconnect } from "./disconnect.js";
import { Failovers, Letters, orphans } from "./failovers.js";
import { head, problems } from "./head.js";
import { Instances, services } from "./instances.js";
import { Resources } from "./resources.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";

/** @param {string} id */
const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

const store = new Store();
let state = { live: false, why: "connecting" };
let drawing = false;
/** @type {{path: string, title: string}[]} */
let pages = [];

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    render(head(store, state, follow, pages), part("head"));
    render(problems(store), part("problems"));
    render(services(store), part("services"));
    render(instances.view(store), part("instances"));
    render(failovers.view(store), part("failovers"));
    render(orphans(store), part("orphans"));
    render(letters.view(store), part("letters"));
    render(resources.view(store), part("resources"));
    render(actors.view(store), part("nodes"));
    charts.show(store.samples);
    document.body.classList.toggle("stale", !state.live && store.at > 0);
    const critical = store.rows("problems").filter((one) => one.severity === "critical").length;
    document.title = `${critical ? `(${critical}) ` : ""}${state.live ? "" : "stale: "}Aegis`;
  });
}

const charts = new Charts(part("charts"));
const instances = new Instances(draw, disconnect);
const failovers = new Failovers(draw);
const letters = new Letters(draw);
const resources = new Resources(draw);
const actors = new Actors(draw);

const stream = new Stream(
  (message) => {
    store.take(message);
    // Who owns what has changed: the page of resources should say so at once.
    if (message.reset || message.rows.failovers || message.rows.instances) resources.load();
    draw();
  },
  (now) => {
    state = now;
    draw();
  },
);

function follow() {
  state = { live: false, why: "connecting" };
  draw();
  stream.run();
}

follow();
askJson("/api/v1/admin/pages").then((found) => {
  pages = found.pages;
  draw();
}, console.debug);
setInterval(() => state.live || draw(), 1_000);
