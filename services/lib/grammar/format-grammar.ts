// The string formats of JSON Schema that we generate, each a part of its language of which every text is valid. Pure.
import { characters, either, type Expression, optional, repeat, sequence, text } from "./expression.ts";

const digits = (least: number, most = least) => repeat(characters("0-9"), least, most);
const hex = (length: number) => repeat(characters("0-9a-f"), length, length);
const upTo = (...parts: [string, string][]) => either(...parts.map(([tens, ones]) => sequence(characters(tens), characters(ones))));

// Days that every month has.
const date = sequence(
  characters("12"),
  digits(3),
  text("-"),
  upTo(["0", "1-9"], ["1", "0-2"]),
  text("-"),
  upTo(["0", "1-9"], ["1", "0-9"], ["2", "0-8"]),
);
const clock = sequence(upTo(["01", "0-9"], ["2", "0-3"]), text(":"), upTo(["0-5", "0-9"]), text(":"), upTo(["0-5", "0-9"]));
const time = sequence(
  clock,
  optional(sequence(text("."), digits(1, 6))),
  either(text("Z"), sequence(characters("+-"), upTo(["0", "0-9"]), text(":"), upTo(["0-5", "0-9"]))),
);
const octet = either(
  sequence(text("25"), characters("0-5")),
  sequence(text("2"), characters("0-4"), digits(1)),
  sequence(text("1"), digits(2)),
  sequence(characters("1-9"), digits(1)),
  digits(1),
);
const label = sequence(characters("a-z"), repeat(characters("a-z0-9"), 0, 30));
const hostname = sequence(label, repeat(sequence(text("."), label), 1, 3));
const path = repeat(sequence(text("/"), repeat(characters("A-Za-z0-9_"), 1, 40)), 0, 6);

export const formats: ReadonlyMap<string, Expression> = new Map<string, Expression>([
  ["date", date],
  ["time", time],
  ["date-time", sequence(date, text("T"), time)],
  ["duration", sequence(text("P"), either(sequence(digits(1, 4), text("D")), sequence(text("T"), digits(1, 4), characters("HMS"))))],
  ["uuid", sequence(hex(8), text("-"), hex(4), text("-4"), hex(3), text("-"), characters("89ab"), hex(3), text("-"), hex(12))],
  ["email", sequence(label, optional(sequence(text("."), label)), text("@"), hostname)],
  ["hostname", hostname],
  ["ipv4", sequence(octet, text("."), octet, text("."), octet, text("."), octet)],
  ["ipv6", sequence(repeat(sequence(hex(4), text(":")), 7, 7), hex(4))],
  ["uri", sequence(text("https://"), hostname, path)],
]);
