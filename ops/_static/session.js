// The bearer token, where the node wants one: kept for this tab alone.
"use strict";

const TOKEN = "aegis-token";

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status !== 401) return response;
  const given = await askForToken(token !== null);
  if (given === null) return response;
  sessionStorage.setItem(TOKEN, given);
  return ask(path, options);
}

let asking = null;

// One dialog at a time, however many requests want the token.
function askForToken(wasWrong) {
  asking ??= new Promise((resolve) => {
    const dialog = document.createElement("dialog");
    const form = element("form", { method: "dialog" });
    const input = element("input", { type: "password", autocomplete: "off" });
    const text = wasWrong ? "The token was wrong. The node's token: " : "The node's token: ";
    form.append(element("label", {}, text, input), element("button", {}, "Go on"));
    dialog.append(form);
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      const given = input.value.trim();
      dialog.remove();
      asking = null;
      resolve(given || null);
    });
    dialog.showModal();
  });
  return asking;
}

// What is shown is always text: names of the system are data.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
