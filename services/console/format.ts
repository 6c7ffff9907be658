// Numbers as the page shows them.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function formatCount(value: number): string {
  return grouped.format(value);
}

/** 0, 0.4, 12, 1,234. */
export function formatRate(value: number): string {
  return value < 10 ? oneDigit.format(value) : grouped.format(value);
}

export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 10 && unit > 0 ? oneDigit.format(value) : grouped.format(value)} ${units[unit]}`;
}

export function formatSeconds(seconds: number): string {
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${grouped.format(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${oneDigit.format(seconds * 1000)} ms`;
  if (seconds < 1) return `${grouped.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  return formatAge(seconds);
}

/** A long time, roughly: 45 s, 12 min, 3 h, 2 days. */
export function formatAge(seconds: number): string {
  if (seconds < 60) return `${grouped.format(seconds)} s`;
  if (seconds < 3600) return `${grouped.format(Math.floor(seconds / 60))} min`;
  if (seconds < 48 * 3600) return `${grouped.format(Math.floor(seconds / 3600))} h`;
  return `${grouped.format(Math.floor(seconds / 86400))} days`;
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${formatCount(n)} ${n === 1 ? one : many}`;
}
