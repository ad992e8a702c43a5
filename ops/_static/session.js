// Requests to the node, with its bearer token where it wants one: kept for this tab alone.

const TOKEN = "aegis-token";

/**
 * Fetch with the token; if the node wants one, or another, ask the person for it.
 * @param {string} path
 * @param {RequestInit & {headers?: Record<string, string>}} [options]
 * @returns {Promise<Response>} 401 if nobody gave a token
 */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    /** @type {Record<string, string>} */
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401) return response;
    // Another request may have been given one meanwhile.
    if (sessionStorage.getItem(TOKEN) !== token) continue;
    const given = await askForToken(token !== null);
    if (given === null) return response;
    sessionStorage.setItem(TOKEN, given);
  }
}

/**
 * What the node answers, as JSON. Throws an Error that says what it refused, and why.
 * @param {string} path
 * @param {RequestInit} [options]
 */
export async function askJson(path, options = {}) {
  const response = await ask(path, /** @type {any} */ (options));
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail || `the node answers ${response.status}`);
  return body;
}

/** @type {Promise<string | null> | null} */
let asking = null;

/**
 * One dialog at a time, however many requests want the token.
 * @param {boolean} wasWrong
 */
function askForToken(wasWrong) {
  asking ??= new Promise((resolve) => {
    const dialog = element("dialog", { "aria-labelledby": "token-title" });
    const input = element("input", { type: "password", autocomplete: "off", name: "token" });
    const form = element("form", {},
      element("h2", { id: "token-title" }, "This node wants its token"),
      element("p", { class: wasWrong ? "bad" : "faint" },
        wasWrong ? "The token was wrong." : "It is kept for this tab only, until you close it."),
      element("label", {}, "Token ", input),
      element("div", { class: "buttons" },
        element("button", { type: "submit", class: "primary" }, "Go on")));
    dialog.append(form);
    document.body.append(dialog);
    let given = "";
    form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      given = /** @type {HTMLInputElement} */ (input).value.trim();
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      asking = null;
      resolve(given || null);
    });
    dialog.showModal();
  });
  return asking;
}

/**
 * Make an element. What is shown is always text: names of the system are data.
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
