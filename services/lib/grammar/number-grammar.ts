// JSON numbers between bounds, as grammars. Pure. Where a bound is missing, numbers have at most 15 digits before the point, which float64 holds.
import { characters, either, type Expression, empty, optional, repeat, sequence, text } from "./expression.ts";

export interface Bounds {
  least: number;
  /** `least` itself is not allowed. */
  above: boolean;
  most: number;
  below: boolean;
}

const wholeDigits = 15;
export const widest = 10 ** wholeDigits - 1;
const digit = characters("0-9");
const fractionDigits = 15;

/** Integers from `least` to `most`; null where there are none. Both within +-widest. */
export function integers(least: number, most: number): Expression | null {
  if (least > most) return null;
  const choices: Expression[] = [];
  if (least < 0) choices.push(sequence(text("-"), either(...naturals(Math.max(1, -most), -least))));
  if (most >= 0) choices.push(either(...naturals(Math.max(0, least), most)));
  return either(...choices);
}

/** All multiples between the bounds, as JSON; null where they are more than so many. */
export function multiples(of: number, { least, above, most, below }: Bounds, whole: boolean, limit: number): string[] | null {
  const [first, last] = [Math.ceil(least / of), Math.floor(most / of)];
  if (!(last - first < limit)) return null;
  const values = Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * of).toPrecision(wholeDigits)));
  // As validators look at it: by division of float64.
  const fits = (value: number) =>
    Number.isInteger(value / of) &&
    (!whole || Number.isInteger(value)) &&
    (above ? value > least : value >= least) &&
    (below ? value < most : value <= most);
  return values.filter(fits).map((value) => JSON.stringify(value));
}

/** Numbers between whole bounds, with or without a fraction; null where there are none. */
export function numbers({ least, above, most, below }: Bounds): Expression | null {
  const choices: Expression[] = [];
  if (most > 0 || (most === 0 && !below)) {
    const part = positives(Math.max(0, least), least >= 0 && above, most, below);
    if (part !== null) choices.push(part);
  }
  if (least < 0) {
    const part = positives(Math.max(0, -most), most < 0 ? below : true, -least, above);
    if (part !== null) choices.push(sequence(text("-"), part));
  }
  return choices.length === 0 ? null : either(...choices);
}

function positives(least: number, above: boolean, most: number, below: boolean): Expression | null {
  const choices: Expression[] = [];
  const fraction = optional(sequence(text("."), repeat(digit, 1, fractionDigits)));
  const notZero = sequence(text("."), repeat(digit, 0, fractionDigits - 1), characters("1-9"));
  const first = above ? least + 1 : least;
  if (above && least < most) choices.push(sequence(text(String(least)), notZero));
  const whole = first <= most - 1 ? integers(first, most - 1) : null;
  if (whole !== null) choices.push(sequence(whole, fraction));
  if (!below && most >= first) choices.push(text(String(most)));
  return choices.length === 0 ? null : either(...choices);
}

/** Decimal forms of the integers from `least` to `most`, 0 <= least <= most, without leading zeros. */
function naturals(least: number, most: number): Expression[] {
  const choices: Expression[] = [];
  for (let length = String(least).length; length <= String(most).length; length++) {
    const from = String(Math.max(least, length === 1 ? 0 : 10 ** (length - 1)));
    const to = String(Math.min(most, 10 ** length - 1));
    choices.push(sameLength(from, to));
  }
  return choices;
}

/** Digit strings of one length between two of them. */
function sameLength(from: string, to: string): Expression {
  if (from === "") return empty;
  const [a, b] = [from[0] as string, to[0] as string];
  const rest = from.length - 1;
  const [zeros, nines] = ["0".repeat(rest), "9".repeat(rest)];
  if (a === b) return sequence(text(a), sameLength(from.slice(1), to.slice(1)));
  const choices: Expression[] = [];
  let [low, high] = [Number(a), Number(b)];
  if (from.slice(1) !== zeros) {
    choices.push(sequence(text(a), sameLength(from.slice(1), nines)));
    low++;
  }
  const last = to.slice(1) !== nines ? sequence(text(b), sameLength(zeros, to.slice(1))) : null;
  if (last !== null) high--;
  if (low <= high) choices.push(sequence(characters(low === high ? String(low) : `${low}-${high}`), repeat(digit, rest, rest)));
  if (last !== null) choices.push(last);
  return either(...choices);
}
