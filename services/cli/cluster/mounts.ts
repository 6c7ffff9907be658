/** What is mounted at a folder or under it, from the text of /proc/mounts; the inner ones first. */
export function mountsUnder(table: string, dir: string): string[] {
  return table
    .split("\n")
    .map((line) =>
      (line.split(" ")[1] ?? "").replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    )
    .filter((target) => target === dir || target.startsWith(`${dir}/`))
    .reverse();
}
