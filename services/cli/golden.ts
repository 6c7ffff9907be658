// Reads golden.safetensors: outputs of the Hugging Face classes that the engine is compared with. Small files that we made; the engine's own
// loader (kernels/graph) is the one that distrusts its input.
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Golden {
  /** [sequences][positions] */
  inputIds: Uint32Array[];
  /** [sequences], each [positions, vocab] */
  logits: Float32Array[];
  greedyPrompt: Uint32Array[];
  greedyTokens: Uint32Array[];
}

interface TensorEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

export function readGolden(dir: string): Golden {
  const path = join(dir, "golden.safetensors");
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch {
    throw new Error(`${path} cannot be read: check-model compares a folder with the outputs stored beside its weights`);
  }
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + headerBytes).toString("utf8")) as Record<string, TensorEntry>;
  const rows = (name: string, dtype: string): ArrayBuffer[] => {
    const entry = header[name];
    if (!entry) throw new Error(`${path}: tensor ${name} is missing`);
    if (entry.dtype !== dtype) throw new Error(`${path}: tensor ${name} is ${entry.dtype}, ${dtype} expected`);
    const [start, end] = entry.data_offsets;
    const data = file.subarray(8 + headerBytes + start, 8 + headerBytes + end);
    const count = entry.shape[0] as number;
    const rowBytes = data.length / count;
    // Copies, because the file's own offsets need not be aligned.
    return Array.from({ length: count }, (_, i) => new Uint8Array(data.subarray(i * rowBytes, (i + 1) * rowBytes)).slice().buffer);
  };
  const ids = (name: string) => rows(name, "I32").map((row) => new Uint32Array(row));
  return {
    inputIds: ids("input_ids"),
    logits: rows("logits", "F32").map((row) => new Float32Array(row)),
    greedyPrompt: ids("greedy_prompt"),
    greedyTokens: ids("greedy_tokens"),
  };
}
