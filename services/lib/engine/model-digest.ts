// The model digest: which weights a folder holds, without reading all of them. Wrong bytes behind an equal header are caught by the numerics id.
import { createHash } from "node:crypto";
import { open, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

/** SHA-256 of config.json and of each safetensors file's name, size and header. */
export async function modelDigest(dir: string): Promise<string> {
  const hash = createHash("sha256");
  hash.update(await readFile(join(dir, "config.json")));
  const shards = (await readdir(dir)).filter((name) => name.startsWith("model") && name.endsWith(".safetensors")).sort();
  for (const name of shards) {
    const path = join(dir, name);
    const { size } = await stat(path);
    hash.update(`${name}:${size}:`);
    const file = await open(path, "r");
    try {
      const length = Buffer.alloc(8);
      await file.read(length, 0, 8, 0);
      // The loader has checked the header; a longer one than this does not exist among real checkpoints.
      const headerBytes = Math.min(Number(length.readBigUInt64LE()), size, 64 << 20);
      const header = Buffer.alloc(headerBytes);
      await file.read(header, 0, headerBytes, 8);
      hash.update(header);
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex");
}
