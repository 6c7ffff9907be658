// Where in the page one is: in the address behind the #, so that the gateway has one page to serve and the browser's history works.
import { useEffect, useState } from "preact/hooks";

export const views = ["chat", "pools", "experts"] as const;
export type View = (typeof views)[number];

export function viewOf(hash: string): View {
  return views.find((name) => hash === hrefOf(name)) ?? "chat";
}

export function hrefOf(view: View): string {
  return `#/${view}`;
}

export function useView(): View {
  const [view, setView] = useState(() => viewOf(location.hash));
  useEffect(() => {
    const onChange = () => setView(viewOf(location.hash));
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return view;
}
