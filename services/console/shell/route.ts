// Where in the page one is: in the address behind the #, so that the gateway has one page to serve and the browser's history works.
import { useEffect, useState } from "preact/hooks";

export const views = ["chat", "pools", "experts", "requests"] as const;
export type View = (typeof views)[number];

export interface Route {
  view: View;
  /** One of the view's things: a request. */
  id: string | null;
}

/** Whatever the address says: what is not known is the chat. */
export function routeOf(hash: string): Route {
  const [, name = "", id = ""] = /^#\/([^/]*)\/?(.*)$/.exec(hash) ?? [];
  const view = views.find((known) => known === name) ?? "chat";
  if (view !== "requests" || id === "") return { view, id: null };
  try {
    return { view, id: decodeURIComponent(id) };
  } catch {
    return { view, id: null };
  }
}

export function hrefOf(view: View, id?: string): string {
  return id === undefined ? `#/${view}` : `#/${view}/${encodeURIComponent(id)}`;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => routeOf(location.hash));
  useEffect(() => {
    const onChange = () => setRoute(routeOf(location.hash));
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return route;
}
