import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { binaryPath, buildText, type GoBinary, goBinaries, missingBinaries } from "./binaries.ts";
import { goBuildInfo } from "./go-build-info.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-binaries-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** The smallest ELF file with a Go program's build information: header, the two sections, and their table. */
function goProgram(name: string, version: string): Buffer {
  const info = Buffer.from(
    `\xff Go buildinf:\x08\x02${"\0".repeat(16)}\x08go1.26.8\x40path\t${name}\nmod\tmodule\t${version}\th1:x=\n`,
    "latin1",
  );
  const names = Buffer.from("\0.shstrtab\0.go.buildinfo\0", "latin1");
  const header = Buffer.alloc(64);
  header.write("\x7fELF\x02\x01", "latin1");
  header.writeBigUInt64LE(BigInt(64 + names.length + info.length), 0x28);
  for (const [at, value] of [
    [0x3a, 64],
    [0x3c, 3],
    [0x3e, 1],
  ] as const)
    header.writeUInt16LE(value, at);
  const table = Buffer.alloc(3 * 64);
  const entry = (i: number, nameAt: number, position: number, length: number) => {
    table.writeUInt32LE(nameAt, i * 64);
    table.writeBigUInt64LE(BigInt(position), i * 64 + 0x18);
    table.writeBigUInt64LE(BigInt(length), i * 64 + 0x20);
  };
  entry(1, 1, 64, names.length);
  entry(2, 11, 64 + names.length, info.length);
  return Buffer.concat([header, names, info, table]);
}

const place = (binary: GoBinary, version = `v${binary.version}`, name = binary.package) =>
  writeFileSync(join(dir, binary.name), goProgram(name, version));

describe("what is built", () => {
  const kubelet = goBinaries.find(({ name }) => name === "kubelet") as GoBinary;

  it("is enough where all of it has the versions of the node", () => {
    for (const binary of goBinaries) place(binary);
    expect(missingBinaries(dir)).toEqual([]);
    expect(binaryPath("kubelet", dir)).toBe(join(dir, "kubelet"));
  });

  it("is due where it is missing, of another version, another program, or not whole", () => {
    for (const binary of goBinaries) place(binary);
    place(kubelet, "v1.35.2");
    expect(missingBinaries(dir)).toEqual([kubelet]);
    expect(binaryPath("kubelet", dir)).toBeUndefined();
    expect(buildText(kubelet, dir)).toBe(`building kubelet ${kubelet.version} in place of version 1.35.2`);
    place(kubelet, `v${kubelet.version}`, "k8s.io/kubernetes/cmd/kube-proxy");
    expect(missingBinaries(dir)).toEqual([kubelet]);
    place(kubelet);
    const whole = readFileSync(join(dir, "kubelet"));
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(join(dir, "kubelet"), whole.subarray(0, length));
      expect(missingBinaries(dir), `${length} bytes of ${whole.length}`).toEqual([kubelet]);
    }
    rmSync(join(dir, "kubelet"));
    expect(missingBinaries(dir)).toEqual([kubelet]);
    expect(buildText(kubelet, dir)).toBe(`building kubelet ${kubelet.version}`);
  });
});

describe("Go's build information", () => {
  // The compiler of this tree is a Go program.
  const platform = `@typescript/typescript-${process.platform}-${process.arch}`;
  const compiler = join(
    dirname(createRequire(createRequire(import.meta.url).resolve("typescript/package.json")).resolve(`${platform}/package.json`)),
    "lib",
    "tsc",
  );

  it.skipIf(process.platform !== "linux")("is read from a real program, and not from a part of it", () => {
    expect(goBuildInfo(compiler)?.package).toBe("github.com/microsoft/typescript-go/cmd/tsgo");
    expect(goBuildInfo(compiler)?.version).toMatch(/^v\d/);
    writeFileSync(join(dir, "part"), readFileSync(compiler).subarray(0, 10_000_000));
    expect(goBuildInfo(join(dir, "part"))).toBeUndefined();
  });

  it("is in no other file", () => {
    expect(goBuildInfo(process.execPath)).toBeUndefined();
    expect(goBuildInfo(import.meta.filename)).toBeUndefined();
  });
});
