// A page's view of the server: `fetch` as a browser has it for a page of another origin. What CORS does not allow
// fails, and of an answer only the headers that the server exposes are seen.
import assert from "node:assert/strict";

const SAFE_HEADERS = [
  "cache-control",
  "content-language",
  "content-length",
  "content-type",
  "expires",
  "last-modified",
  "pragma",
];
const SAFE_METHODS = ["GET", "HEAD", "POST"];

export const origin = "http://localhost:3000";
/** Every request since the start, without preflights: method, path and body. */
export const requests = [];

globalThis.window = {};

const words = (headers, name) => (headers.get(name) ?? "").toLowerCase().split(/\s*,\s*/);

function allowed(headers) {
  assert.ok([origin, "*"].includes(headers.get("access-control-allow-origin")), "the origin is not allowed");
}

async function preflight(url, method, names) {
  const answer = await fetch(url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": method,
      "access-control-request-headers": names.join(","),
    },
  });
  assert.ok(answer.ok, `preflight of ${method} ${url}: ${answer.status}`);
  allowed(answer.headers);
  const methods = words(answer.headers, "access-control-allow-methods");
  assert.ok(SAFE_METHODS.includes(method) || methods.includes(method.toLowerCase()) || methods.includes("*"), method);
  const headers = words(answer.headers, "access-control-allow-headers");
  for (const name of names) assert.ok(headers.includes(name) || headers.includes("*"), `${name} is not allowed`);
}

/** In place of `fetch`. */
export async function pageFetch(url, init = {}) {
  const { method = "GET", headers = {}, body } = init;
  const sent = new Headers(headers);
  const named = [...sent.keys()].filter((name) => name !== "accept").sort();
  if (named.length > 0 || !SAFE_METHODS.includes(method)) await preflight(url, method, named);
  const { pathname, search } = new URL(url);
  requests.push([method, pathname + search, body && JSON.parse(body)]);
  sent.set("origin", origin);
  const answer = await fetch(url, { ...init, headers: sent });
  allowed(answer.headers);
  const exposed = [...SAFE_HEADERS, ...words(answer.headers, "access-control-expose-headers")];
  return new Response(answer.body, {
    status: answer.status,
    statusText: answer.statusText,
    headers: [...answer.headers].filter(([name]) => exposed.includes(name)),
  });
}

/** `sessionStorage`, which outlives a page. */
export const storage = new (class {
  #items = new Map();
  getItem = (key) => this.#items.get(key) ?? null;
  setItem = (key, value) => this.#items.set(key, value);
  removeItem = (key) => this.#items.delete(key);
  get size() {
    return this.#items.size;
  }
})();
