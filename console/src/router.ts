/** The address of the page is its state: each view can be sent to somebody and loaded again. */

import { signal } from "@preact/signals";
import { root } from "./api.ts";

export interface Route {
  /** The first part of the path after `/console/`, or "". */
  view: string;
  /** The second part, or "". */
  id: string;
  query: URLSearchParams;
}

function read(): Route {
  const parts = location.pathname.slice(`${root}/console`.length).split("/").filter(Boolean);
  return { view: parts[0] ?? "", id: decodeURIComponent(parts[1] ?? ""), query: new URLSearchParams(location.search) };
}

export const route = signal<Route>(read());

/** The address of a view, for links. */
export function href(path: string): string {
  return `${root}/console/${path}`;
}

export function navigate(path: string, options: { replace?: boolean } = {}): void {
  const address = href(path);
  // Or the Back button would seem to do nothing.
  if (address === location.pathname + location.search) return;
  if (options.replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  route.value = read();
}

/** Changes parameters of the present address. Null removes one. */
export function setQuery(changes: Record<string, string | null>, options: { replace?: boolean } = {}): void {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  const path = location.pathname.slice(`${root}/console/`.length);
  navigate(text ? `${path}?${text}` : path, options);
}

/** Follows links of this page without loading it again. */
export function start(): void {
  addEventListener("popstate", () => {
    route.value = read();
  });
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    // A modifier key opens a new tab or window, which is the browser's work.
    if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (!link.pathname.startsWith(`${root}/console/`)) return;
    event.preventDefault();
    navigate(link.pathname.slice(`${root}/console/`.length) + link.search);
  });
}
