// Light or dark: the browser's choice, or one made here and kept.
import { useEffect, useState } from "preact/hooks";

export const schemes = ["auto", "light", "dark"] as const;
export type Scheme = (typeof schemes)[number];

const storageKey = "pelagic-scheme";

function kept(): Scheme {
  try {
    return schemes.find((scheme) => scheme === localStorage.getItem(storageKey)) ?? "auto";
  } catch {
    return "auto";
  }
}

function apply(scheme: Scheme): void {
  if (scheme === "auto") delete document.documentElement.dataset.scheme;
  else document.documentElement.dataset.scheme = scheme;
}

/** Before the first paint. */
export function applyKeptScheme(): void {
  apply(kept());
}

/** `shown` is what the page looks like now: what draws on a canvas draws again when it changes. */
export function useScheme(): { scheme: Scheme; shown: "light" | "dark"; choose: (scheme: Scheme) => void } {
  const [scheme, setScheme] = useState(kept);
  const [prefersDark, setPrefersDark] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const onChange = () => setPrefersDark(query.matches);
    query.addEventListener("change", onChange);
    return () => query.removeEventListener("change", onChange);
  }, []);
  const choose = (next: Scheme) => {
    apply(next);
    setScheme(next);
    try {
      localStorage.setItem(storageKey, next);
    } catch {
      // Without storage it holds for this page.
    }
  };
  return { scheme, shown: scheme === "auto" ? (prefersDark ? "dark" : "light") : scheme, choose };
}

/** What a custom property of the style sheet is now, as a colour that a canvas takes. */
export function cssColour(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
