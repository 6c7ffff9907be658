// What Go's linker wrote into a program: the package that it was built from, and the version of that package's module.
import { closeSync, openSync, readSync } from "node:fs";

export interface GoBuildInfo {
  package: string;
  /** With its "v". */
  version: string;
}

/** More than any Go program has of either. */
const maxSectionBytes = 1024 * 1024;

/** Undefined where the file is no 64-bit ELF program that Go 1.18 or later built. */
export function goBuildInfo(path: string): GoBuildInfo | undefined {
  const file = openSync(path, "r");
  try {
    const text = elfSection(file, ".go.buildinfo")?.toString("latin1") ?? "";
    const [, name, version] = /path\t(\S+)\nmod\t\S+\t(\S+)/.exec(text) ?? [];
    return name === undefined || version === undefined ? undefined : { package: name, version };
  } finally {
    closeSync(file);
  }
}

function elfSection(file: number, name: string): Buffer | undefined {
  const header = bytesAt(file, 0, 64);
  // 64 bits, little-endian.
  if (!header?.subarray(0, 6).equals(Buffer.from("\x7fELF\x02\x01", "latin1"))) return undefined;
  const entryBytes = header.readUInt16LE(0x3a);
  const table = bytesAt(file, Number(header.readBigUInt64LE(0x28)), entryBytes * header.readUInt16LE(0x3c));
  if (table === undefined || entryBytes < 64) return undefined;
  const content = (at: number) => bytesAt(file, Number(table.readBigUInt64LE(at + 0x18)), Number(table.readBigUInt64LE(at + 0x20)));
  const namesAt = header.readUInt16LE(0x3e) * entryBytes;
  const names = namesAt < table.length ? content(namesAt) : undefined;
  for (let at = 0; names !== undefined && at < table.length; at += entryBytes) {
    const nameAt = table.readUInt32LE(at);
    if (names.toString("latin1", nameAt, nameAt + name.length + 1) === `${name}\0`) return content(at);
  }
  return undefined;
}

function bytesAt(file: number, position: number, length: number): Buffer | undefined {
  if (length > maxSectionBytes || position > Number.MAX_SAFE_INTEGER) return undefined;
  const bytes = Buffer.alloc(length);
  return readSync(file, bytes, 0, length, position) === length ? bytes : undefined;
}
