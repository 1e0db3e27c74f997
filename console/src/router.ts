/** The address: `#/path?query`. Ids and filters are behind `#`, so no access log has them. */
import { signal } from "@preact/signals";

export interface Address {
  /** Such as `/task/01K…7Q~alice`; segments are decoded when they are matched. */
  path: string;
  query: URLSearchParams;
}

export function parseAddress(hash: string): Address {
  const text = hash.replace(/^#/, "");
  const [path = "", query = ""] = text.split(/\?(.*)/s);
  return { path: `/${path.replace(/^\/+|\/+$/g, "")}`, query: new URLSearchParams(query) };
}

export const address = signal<Address>(parseAddress(typeof location === "undefined" ? "" : location.hash));

/** Return the parameters if a path has the form of a pattern such as `/task/{id}`, else null. */
export function match(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split("/");
  const given = path.split("/");
  if (wanted.length !== given.length) return null;
  const found: Record<string, string> = {};
  for (const [index, segment] of wanted.entries()) {
    const text = given[index] ?? "";
    const [, name] = segment.match(/^\{(\w+)\}$/) ?? [];
    if (name) {
      if (!text) return null;
      try {
        found[name] = decodeURIComponent(text);
      } catch {
        found[name] = text;
      }
    } else if (segment !== text) return null;
  }
  return found;
}

/** Return the address of a route: `href("/task/{id}", {id}, {tab: "log"})`. */
export function href(
  pattern: string,
  params: Record<string, string> = {},
  query: Record<string, string | number | undefined | null> | URLSearchParams = {},
): string {
  const path = pattern.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params[name] ?? ""));
  const search = query instanceof URLSearchParams ? query : new URLSearchParams();
  if (!(query instanceof URLSearchParams))
    for (const [name, value] of Object.entries(query))
      if (value !== undefined && value !== null && value !== "") search.set(name, String(value));
  const text = search.toString();
  return `#${path}${text ? `?${text}` : ""}`;
}

/** Go to an address of `href`. `replace`: without an entry in the history, as for a filter that is being typed. */
export function navigate(to: string, { replace = false } = {}): void {
  if (replace) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  address.value = parseAddress(to.slice(to.indexOf("#")));
}

/** Change the query of the present address; undefined or "" removes a parameter, an array repeats it. */
export function setQuery(change: Record<string, string | string[] | undefined>, { replace = false } = {}): void {
  const query = new URLSearchParams(address.value.query);
  for (const [name, value] of Object.entries(change)) {
    query.delete(name);
    for (const each of Array.isArray(value) ? value : value ? [value] : []) query.append(name, each);
  }
  navigate(href(address.value.path, {}, query), { replace });
}

/** Follow the address. `intercept` sees each hash first; true: it has dealt with it. */
export function followAddress(intercept: (hash: string) => boolean): void {
  const read = () => {
    if (!intercept(location.hash)) address.value = parseAddress(location.hash);
  };
  addEventListener("hashchange", read);
  addEventListener("popstate", read);
  read();
}
