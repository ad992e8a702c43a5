// The dialog that asks before an instance is disconnected, and tells what came of it.

import { askJson, element } from "/static/session.js";
import { plural, some } from "./format.js";

const MAX_NAMED = 100;

/** @param {any} instance a row of the table of instances */
export async function disconnect(instance) {
  const id = instance.instance_id;
  const path = encodeURIComponent(id);
  const text = element("p", {}, "Looking at what it owns ...");
  const result = element("p", { role: "status" });
  const yes = element("button", { class: "danger", type: "button" }, `Disconnect ${id}`);
  const no = element("button", { type: "button", autofocus: "" }, "Leave it");
  const dialog = element("dialog", { "aria-labelledby": "ask-title", "aria-describedby": "ask-text" },
    element("h2", { id: "ask-title" }, `Disconnect ${instance.service_name}@${id}?`),
    element("div", { id: "ask-text" }, text), result, element("div", { class: "buttons" }, no, yes));
  no.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    try {
      const node = encodeURIComponent(instance.node_id);
      const done = await askJson(`/api/v1/admin/instances/${path}/disconnect?node_id=${node}`, { method: "POST" });
      text.textContent = `${id} is disconnected.`;
      result.textContent = outcome(done);
      yes.remove();
      no.textContent = "Close";
      no.focus();
    } catch (error) {
      result.textContent = `It was not disconnected: ${/** @type {Error} */ (error).message}`;
      result.className = "bad";
      yes.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  try {
    const query = `instance=${path}&only=alone&limit=${MAX_NAMED}`;
    text.textContent = warning(instance, await askJson(`/api/v1/admin/resources?${query}`));
  } catch (error) {
    text.textContent = `What it owns is not known: ${/** @type {Error} */ (error).message}`;
  }
}

/**
 * @param {any} instance
 * @param {{resources: {resource_id: string}[], next: string | null}} alone
 */
function warning(instance, alone) {
  if (!instance.resources) return "It owns nothing. It comes back only if its process registers it anew.";
  const owned = plural(instance.resources, "resource");
  const names = alone.resources.map((one) => one.resource_id);
  if (!names.length) return `Its ${owned} go to their standbys at once.`;
  const many = alone.next === null ? "" : `more than ${names.length},`;
  const rest = names.length < instance.resources ? " The others go to their standbys at once." : "";
  return `It owns ${owned}. Without a standby, and so without an owner then: ${many} ${some(names, names.length, 5)}.${rest}`;
}

/** @param {{promoted: Record<string, string>, released: string[]}} done */
function outcome(done) {
  const promoted = Object.keys(done.promoted);
  const parts = [];
  if (promoted.length) parts.push(`${plural(promoted.length, "resource")} went to ${[...new Set(Object.values(done.promoted))].join(", ")}.`);
  if (done.released.length) parts.push(`Without an owner now: ${some(done.released, done.released.length, 5)}.`);
  return parts.join(" ") || "It owned nothing.";
}
