// Bytes as XGrammar is given them. It takes any continuation byte after any leading one and gets ranges beyond ASCII wrong, so nothing beyond ASCII
// reaches it: a byte from 0x80 on is two characters, one of eight control characters for its upper half and one of @ to O for its lower. Pure.

const firstUpper = 0x0e;
const firstLower = 0x40;

/** As a token is given. Empty, hence never allowed, where the bytes hold one of the eight control characters themselves. */
export function asAscii(bytes: Uint8Array): string {
  let out = "";
  for (const byte of bytes) {
    if (byte >= firstUpper && byte < firstUpper + 8) return "";
    out += byte < 0x80 ? String.fromCharCode(byte) : upper(byte) + lower(byte);
  }
  return out;
}

export type Range = readonly [from: number, to: number];

/** One byte of a range, below 0x80 or not as a whole, as alternatives in EBNF. */
export function byteRanges([from, to]: Range): string[] {
  if (to < 0x80) return [`[${classOf(from, to)}]`];
  const parts: string[] = [];
  let begin = from;
  while (begin <= to) {
    // As many whole upper halves as there are, or what there is of one.
    const whole = begin % 16 === 0 ? Math.floor((to + 1 - begin) / 16) : 0;
    const end = whole > 0 ? begin + 16 * whole - 1 : Math.min(to, begin | 15);
    const uppers = classOf(upper(begin).charCodeAt(0), upper(end).charCodeAt(0));
    const lowers = classOf(lower(begin).charCodeAt(0), whole > 0 ? firstLower + 15 : lower(end).charCodeAt(0));
    parts.push(`[${uppers}] [${lowers}]`);
    begin = end + 1;
  }
  return parts;
}

export function textOf(bytes: Uint8Array): string {
  return [...bytes]
    .map((byte) => (byte < 0x80 ? escaped(byte) : [upper(byte), lower(byte)].map((one) => escaped(one.charCodeAt(0))).join("")))
    .join("");
}

/** The inside of a bracket. */
export function classOf(from: number, to: number): string {
  return from === to ? escaped(from) : `${escaped(from)}-${escaped(to)}`;
}

/** Letters and digits stand for themselves, every other character as its number: nothing of EBNF's own syntax is left. */
function escaped(code: number): string {
  const character = String.fromCharCode(code);
  return /[A-Za-z0-9 ]/.test(character) ? character : `\\u00${code.toString(16).padStart(2, "0")}`;
}

function upper(byte: number): string {
  return String.fromCharCode(firstUpper + ((byte >> 4) & 7));
}

function lower(byte: number): string {
  return String.fromCharCode(firstLower + (byte & 15));
}
