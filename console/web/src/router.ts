// Where the page is: the path says which view, the query what in it. Every state worth sharing is in the address.

import { signal } from "@preact/signals";

export type Page = "map" | "devices" | "topics" | "about" | "unknown";
export interface Route { page: Page; query: URLSearchParams }

const PAGES = ["map", "devices", "topics", "about"];

function read(): Route {
  const path = location.pathname.split("/")[1]!;
  const page = ["", "pipeline", "login"].includes(path) ? "map" : PAGES.includes(path) ? path : "unknown";
  return { page: page as Page, query: new URLSearchParams(location.search) };
}

export const route = signal<Route>(read());
addEventListener("popstate", () => (route.value = read()));

const address = (page: Page, query: URLSearchParams): string => {
  const q = query.toString().replaceAll("%2C", ",");
  return "/" + page + (q ? "?" + q : "");
};

/** The address of a view; null leaves a name out. */
export function link(page: Page, set: Record<string, string | null> = {}): string {
  const q = new URLSearchParams();
  const interp = route.value.query.get("interp");
  if (interp) q.set("interp", interp);
  for (const [k, v] of Object.entries(set)) if (v) q.set(k, v);
  return address(page, q);
}

/** Goes to a view, as a new entry of the history. */
export function go(to: string): void {
  history.pushState(null, "", to);
  route.value = read();
}

/** Changes what is in this view: not worth an entry of the history unless asked. */
export function alter(set: Record<string, string | null>, entry = false): void {
  const q = new URLSearchParams(route.value.query);
  for (const [k, v] of Object.entries(set)) {
    if (v === null || v === "") q.delete(k);
    else q.set(k, v);
  }
  const page = route.value.page === "unknown" ? "map" : route.value.page;
  const to = address(page, q);
  if (to === location.pathname + location.search) return;
  try {
    if (entry) history.pushState(null, "", to);
    else history.replaceState(null, "", to);
    route.value = read();
  } catch {
    route.value = { page, query: q }; // some browsers allow so many changes a minute; the view changes all the same
  }
}

/** Follows links within the page without loading it again. */
export function follow(e: MouseEvent): void {
  const a = (e.target as Element).closest?.("a");
  if (!a || e.defaultPrevented || e.button || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey || a.target || a.hasAttribute("download")) return;
  if (a.origin !== location.origin || !PAGES.includes(a.pathname.slice(1))) return;
  e.preventDefault();
  go(a.pathname + a.search);
}
