// What people see: seconds, tables, and colour only where a terminal wants it.
export function formatSeconds(seconds: number): string {
  return seconds < 10 ? `${seconds.toFixed(2)} s` : `${seconds.toFixed(0)} s`;
}

export function isTerminal(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

const dimOn = "\u001b[2m";
const dimOff = "\u001b[22m";

/** What to write before and after text that is to be dimmed: nothing where the stream is no terminal. */
export function dimming(stream: NodeJS.WriteStream): { on: string; off: string } {
  return isTerminal(stream) ? { on: dimOn, off: dimOff } : { on: "", off: "" };
}

/** Columns as wide as their widest cell; numbers to the right. */
export function formatTable(header: string[], rows: (string | number)[][]): string {
  const cells = [header, ...rows.map((row) => row.map(String))];
  const widths = header.map((_, column) => Math.max(...cells.map((row) => (row[column] ?? "").length)));
  const numeric = header.map((_, column) => rows.every((row) => typeof row[column] === "number"));
  const line = (row: string[]) =>
    row
      .map((cell, column) => (numeric[column] ? cell.padStart(widths[column] as number) : cell.padEnd(widths[column] as number)))
      .join("  ")
      .trimEnd();
  return cells.map(line).join("\n");
}

/** Text of somebody else's: what a terminal would obey is written out. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
