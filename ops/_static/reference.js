// Shows openapi.json, and lets each operation be tried.

import { ask, element } from "/static/session.js";

/**
 * A schema in a few words, or the shape of an object over several lines.
 * @param {any} schema
 * @param {Record<string, any>} schemas
 * @returns {string}
 */
function described(schema, schemas, depth = 0) {
  if (!schema) return "";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return depth ? name : described(schemas[name], schemas, depth);
  }
  const either = schema.oneOf || schema.anyOf;
  if (either) return either.map((/** @type {any} */ one) => described(one, schemas, depth + 1)).join(" or ");
  if (schema.type === "array") return `list of ${described(schema.items, schemas, depth + 1)}`;
  if (schema.type === "object" && schema.properties) {
    const lines = Object.entries(schema.properties).map(
      ([name, one]) => `  ${name}: ${described(one, schemas, depth + 1)}`,
    );
    return `{\n${lines.join("\n")}\n}`;
  }
  if (Array.isArray(schema.type)) return schema.type.join(" or ");
  return schema.type || "any";
}

/**
 * A form that asks the node, and shows what it answers.
 * @param {string} method
 * @param {string} path
 * @param {any} operation
 */
function tried(method, path, operation) {
  const form = element("form");
  const parameters = operation.parameters || [];
  for (const one of parameters) {
    const needed = one.required ? " (needed)" : "";
    const input = element("input", { name: one.name, autocomplete: "off" });
    if (one.required) input.required = true;
    const text = (one.schema && one.schema.description) || one.description || "";
    const label = element("label", {}, `${one.name}${needed} `, input);
    if (text) label.append(element("span", { class: "faint" }, ` ${text}`));
    form.append(label);
  }
  const result = element("pre", { tabindex: "0", "aria-live": "polite" });
  result.hidden = true;
  form.append(element("button", {}, method === "get" ? "Ask" : "Do it"), result);
  form.addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (method !== "get" && !confirm(`${operation.summary}?`)) return;
    let filled = path;
    const query = new URLSearchParams();
    for (const one of parameters) {
      const value = form.elements[one.name].value;
      if (one.in === "path") filled = filled.replace(`{${one.name}}`, encodeURIComponent(value));
      else if (value) query.set(one.name, value);
    }
    const address = query.size ? `${filled}?${query}` : filled;
    const response = await ask(address, { method: method.toUpperCase() });
    let text = await response.text();
    try {
      text = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // Metrics are text.
    }
    result.hidden = false;
    result.textContent = `${method.toUpperCase()} ${address}\n${response.status}\n\n${text}`;
  });
  return form;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {any} operation
 * @param {Record<string, any>} schemas
 */
function shown(method, path, operation, schemas) {
  const box = element("div");
  box.append(tried(method, path, operation));
  for (const [status, answer] of Object.entries(/** @type {Record<string, any>} */ (operation.responses))) {
    const content = /** @type {any} */ (Object.values(answer.content || {})[0]);
    box.append(element("h3", {}, `${status} `, answer.description || ""));
    if (content) box.append(element("pre", { tabindex: "0" }, described(content.schema, schemas)));
  }
  const title = element("summary", {}, element("span", { class: "method" }, method.toUpperCase()));
  title.append(element("code", {}, path), ` ${operation.summary || ""}`);
  return element("details", {}, title, box);
}

async function load() {
  const main = /** @type {HTMLElement} */ (document.getElementById("main"));
  const response = await ask("/api/v1/openapi.json");
  if (!response.ok) {
    main.replaceChildren(element("p", { class: "bad" }, `The node answers ${response.status}.`));
    return;
  }
  const description = await response.json();
  const schemas = description.components.schemas;
  /** @type {Map<string, HTMLElement>} */
  const groups = new Map();
  /** @type {Record<string, Record<string, any>>} */
  const paths = description.paths;
  for (const [path, operations] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const group = (operation.tags || ["other"])[0];
      const section = groups.get(group) ?? element("section", {}, element("h2", {}, group));
      groups.set(group, section);
      section.append(shown(method, path, operation, schemas));
    }
  }
  main.replaceChildren(...groups.values());
}

load();
