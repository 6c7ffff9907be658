// A second model to serve beside the one in the box: its folder with the rows of the embedding in another order. Same shapes, same tokenizer, other
// weights, and so other answers to everything.
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

const tensor = "model.embed_tokens.weight";

export function writeOtherModel(dir: string): void {
  const from = embeddedModel();
  let changed = 0;
  for (const name of readdirSync(from)) {
    // What the weights in the box compute is not what these do.
    if (name === "numerics.json") continue;
    if (!name.endsWith(".safetensors")) copyFileSync(join(from, name), join(dir, name));
    else changed += copyChanged(join(from, name), join(dir, name));
  }
  if (changed !== 1) throw new Error(`${tensor} stands in ${changed} files of ${from}`);
}

function copyChanged(from: string, to: string): number {
  const bytes = readFileSync(from);
  const headerBytes = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, headerBytes).toString("utf8")) as Record<string, { shape: number[]; data_offsets: number[] }>;
  const found = header[tensor];
  if (found !== undefined) {
    const [begin, end] = found.data_offsets.map((offset) => headerBytes + offset) as [number, number];
    const rowBytes = (end - begin) / (found.shape[0] as number);
    const rows = Buffer.from(bytes.subarray(begin, end));
    for (let at = 0; at < rows.length; at += rowBytes) rows.copy(bytes, end - rowBytes - at, at, at + rowBytes);
  }
  writeFileSync(to, bytes);
  return found === undefined ? 0 : 1;
}
