// The model digest: which weights a folder holds. Equal digests mean equal bytes, so that blocks may be shared between workers.
import { createHash } from "node:crypto";
import { open, readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { nativeModule } from "./native.ts";

const chunkBytes = 8 << 20;

/** SHA-256 over config.json and the XXH64 of each 8 MiB of each safetensors file: the speed of a read, not of SHA-256. */
export async function modelDigest(dir: string): Promise<string> {
  const hash = createHash("sha256");
  hash.update(await readFile(join(dir, "config.json")));
  const shards = (await readdir(dir)).filter((name) => name.startsWith("model") && name.endsWith(".safetensors")).sort();
  for (const name of shards) {
    hash.update(`${name}:`);
    const file = await open(join(dir, name), "r");
    try {
      const chunk = new Uint8Array(chunkBytes);
      for (;;) {
        const { bytesRead } = await file.read(chunk, 0, chunkBytes);
        if (bytesRead === 0) break;
        hash.update(`${nativeModule().xxh64(chunk.subarray(0, bytesRead)).toString(16)}:`);
      }
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex");
}
