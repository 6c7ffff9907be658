// Looks for stop strings in text that comes in pieces. Knuth-Morris-Pratt for each stop, so the time is linear whatever the stops are.
// The match that ends first wins, and of those that end together the longest.

interface Pattern {
  text: string;
  /** Length of the longest proper border of text[0..i]. */
  border: Uint32Array;
  matched: number;
}

export interface StopResult {
  /** Text that can no longer be part of a stop. */
  text: string;
  /** The stop found; neither it nor what follows is in any text. */
  stop: string | null;
  /** How much of the piece was looked at: all of it, or up to the end of the stop. */
  consumed: number;
}

export class StopMatcher {
  private readonly patterns: Pattern[];
  private held = "";

  constructor(stops: readonly string[]) {
    this.patterns = [...new Set(stops)].map((text) => ({ text, border: borders(text), matched: 0 }));
  }

  get isEmpty(): boolean {
    return this.patterns.length === 0;
  }

  push(text: string): StopResult {
    if (this.patterns.length === 0) return { text, stop: null, consumed: text.length };
    for (let i = 0; i < text.length; i++) {
      let longest: string | null = null;
      for (const pattern of this.patterns) {
        advance(pattern, text.charCodeAt(i));
        if (pattern.matched === pattern.text.length && pattern.text.length > (longest?.length ?? 0)) longest = pattern.text;
      }
      if (longest !== null) {
        const seen = this.held + text.slice(0, i + 1);
        this.held = "";
        return { text: seen.slice(0, seen.length - longest.length), stop: longest, consumed: i + 1 };
      }
    }
    const open = Math.max(...this.patterns.map((pattern) => pattern.matched));
    const seen = this.held + text;
    this.held = seen.slice(seen.length - open);
    return { text: seen.slice(0, seen.length - open), stop: null, consumed: text.length };
  }

  /** The end came: what was held back was text after all. */
  flush(): string {
    const text = this.held;
    this.held = "";
    for (const pattern of this.patterns) pattern.matched = 0;
    return text;
  }
}

function advance(pattern: Pattern, unit: number): void {
  let matched = pattern.matched;
  if (matched === pattern.text.length) matched = pattern.border[matched - 1] as number;
  while (matched > 0 && pattern.text.charCodeAt(matched) !== unit) matched = pattern.border[matched - 1] as number;
  pattern.matched = pattern.text.charCodeAt(matched) === unit ? matched + 1 : 0;
}

function borders(text: string): Uint32Array {
  const border = new Uint32Array(text.length);
  let length = 0;
  for (let i = 1; i < text.length; i++) {
    while (length > 0 && text.charCodeAt(i) !== text.charCodeAt(length)) length = border[length - 1] as number;
    if (text.charCodeAt(i) === text.charCodeAt(length)) length++;
    border[i] = length;
  }
  return border;
}
