// A model folder whose steps are mostly experts, made of one whose are not: each expert as wide as asked for, doing what it did. Half of its neurons are its own,
// several times over, with as large a part of their weight; the other half are those of the shared experts, which every token passes and which are therefore left
// out: their weight is divided by what the gate's weights of a token add up to. So the gate chooses as it did, and answers are the same but for rounding.
import { closeSync, copyFileSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CliError } from "./cli-error.ts";

const configFields = z.looseObject({
  moe_intermediate_size: z.number().int().positive(),
  n_shared_experts: z.number().int().positive(),
  norm_topk_prob: z.literal(true),
  routed_scaling_factor: z.number().positive(),
  quantization_config: z.looseObject({ quant_method: z.literal("fp8") }),
});
const headerSchema = z.record(
  z.string(),
  z.object({ dtype: z.string(), shape: z.array(z.number().int()), data_offsets: z.tuple([z.number(), z.number()]) }),
);

/** Of the quantised weights, both ways. */
const blockWidth = 128;
const modelFile = "model.safetensors";
const copiedFiles = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];

interface Tensor {
  dtype: string;
  shape: number[];
  /** Read when it is written: together they may be large. */
  bytes: () => Buffer;
}
type Tensors = ReadonlyMap<string, Tensor>;
/** Neurons, how often each is there, and by what its output's weights are divided. */
interface Part {
  prefix: string;
  width: number;
  copies: number;
  divisor: number;
}

/** Writes into an empty folder. From a folder with FP8 weights and shared experts in one file, as the model in the box has them. */
export function writeWideExperts(from: string, to: string, width: number): void {
  const parsed = configFields.safeParse(JSON.parse(readFileSync(join(from, "config.json"), "utf8")));
  if (!parsed.success)
    throw new CliError(
      `${join(from, "config.json")}: experts are made wide where they are FP8, beside shared ones and under weights that add up to routed_scaling_factor: ${z.prettifyError(parsed.error)}`,
    );
  const config = parsed.data;
  const own = config.moe_intermediate_size;
  const shared = own * config.n_shared_experts;
  const half = width / 2;
  for (const each of [own, shared]) {
    if (!Number.isInteger(half / blockWidth) || !Number.isInteger(half / each) || (blockWidth % each !== 0 && each % blockWidth !== 0))
      throw new CliError(`experts ${width} wide cannot be made of ${each} neurons: take a multiple of ${2 * Math.max(blockWidth, each)}`);
  }
  const tensors = readTensors(from);
  const wide = new Map<string, Tensor>();
  for (const [name, tensor] of tensors) {
    const expert = /^(.*\.mlp\.)experts\.\d+\./.exec(name);
    if (expert === null) {
      if (!name.includes(".mlp.shared_experts.")) wide.set(name, tensor);
      continue;
    }
    if (!name.endsWith(".gate_proj.weight")) continue;
    const parts: Part[] = [
      { prefix: expert[0], width: own, copies: half / own, divisor: half / own },
      {
        prefix: `${expert[1]}shared_experts.`,
        width: shared,
        copies: half / shared,
        divisor: (half / shared) * config.routed_scaling_factor,
      },
    ];
    for (const [key, widened] of wideExpert(tensors, parts)) wide.set(`${expert[0]}${key}`, widened);
  }
  writeTensors(join(to, modelFile), wide);
  writeFileSync(join(to, "config.json"), JSON.stringify({ ...config, moe_intermediate_size: width, n_shared_experts: 0 }));
  for (const file of copiedFiles) copyFileSync(join(from, file), join(to, file));
}

function wideExpert(tensors: Tensors, parts: Part[]): [string, Tensor][] {
  const of = (prefix: string, key: string) => {
    const tensor = tensors.get(`${prefix}${key}`);
    if (tensor === undefined) throw new CliError(`${prefix}${key} is missing`);
    return tensor;
  };
  const width = parts.reduce((sum, part) => sum + part.width * part.copies, 0);
  const hidden = of((parts[0] as Part).prefix, "gate_proj.weight").shape[1] as number;
  const blocksOf = (extent: number) => Math.ceil(extent / blockWidth);
  /** Blocks of a part's neurons after one another; where it has less than one, all are that one. */
  const blocks = (part: Part) => Array.from({ length: (part.width * part.copies) / blockWidth }, (_, i) => i % blocksOf(part.width));
  const rows = (key: string): Tensor => ({
    dtype: "F8_E4M3",
    shape: [width, hidden],
    bytes: () => Buffer.concat(parts.flatMap(({ prefix, copies }) => new Array<Buffer>(copies).fill(of(prefix, key).bytes()))),
  });
  const rowScales = (key: string): Tensor => ({
    dtype: "F32",
    shape: [width / blockWidth, blocksOf(hidden)],
    bytes: () =>
      Buffer.concat(
        parts.flatMap((part) => {
          const scales = of(part.prefix, key).bytes();
          const rowBytes = 4 * blocksOf(hidden);
          return blocks(part).map((block) => scales.subarray(block * rowBytes, (block + 1) * rowBytes));
        }),
      ),
  });
  const columns: Tensor = {
    dtype: "F8_E4M3",
    shape: [hidden, width],
    bytes: () => {
      const from = parts.map((part) => ({ ...part, bytes: of(part.prefix, "down_proj.weight").bytes() }));
      return Buffer.concat(
        Array.from({ length: hidden }, (_, row) =>
          from.flatMap((part) => new Array<Buffer>(part.copies).fill(part.bytes.subarray(row * part.width, (row + 1) * part.width))),
        ).flat(),
      );
    },
  };
  const columnScales: Tensor = {
    dtype: "F32",
    shape: [blocksOf(hidden), width / blockWidth],
    bytes: () => {
      const from = parts.map((part) => ({ part, scales: of(part.prefix, "down_proj.weight_scale_inv").bytes() }));
      const values = Array.from({ length: blocksOf(hidden) }, (_, row) =>
        from.flatMap(({ part, scales }) =>
          blocks(part).map((block) => scales.readFloatLE(4 * (row * blocksOf(part.width) + block)) / part.divisor),
        ),
      ).flat();
      return Buffer.from(Float32Array.from(values).buffer);
    },
  };
  return [
    ["gate_proj.weight", rows("gate_proj.weight")],
    ["gate_proj.weight_scale_inv", rowScales("gate_proj.weight_scale_inv")],
    ["up_proj.weight", rows("up_proj.weight")],
    ["up_proj.weight_scale_inv", rowScales("up_proj.weight_scale_inv")],
    ["down_proj.weight", columns],
    ["down_proj.weight_scale_inv", columnScales],
  ];
}

function readTensors(dir: string): Map<string, Tensor> {
  const index = z
    .object({ weight_map: z.record(z.string(), z.string()) })
    .parse(JSON.parse(readFileSync(join(dir, "model.safetensors.index.json"), "utf8")));
  const tensors = new Map<string, Tensor>();
  for (const name of new Set(Object.values(index.weight_map))) {
    const file = readFileSync(join(dir, name));
    const dataStart = 8 + Number(file.readBigUInt64LE(0));
    const { __metadata__: _, ...header } = JSON.parse(file.subarray(8, dataStart).toString("utf8")) as Record<string, unknown>;
    for (const [key, { dtype, shape, data_offsets: offsets }] of Object.entries(headerSchema.parse(header)))
      tensors.set(key, { dtype, shape, bytes: () => file.subarray(dataStart + offsets[0], dataStart + offsets[1]) });
  }
  return tensors;
}

function writeTensors(path: string, tensors: Tensors): void {
  const bytesOf: Record<string, number> = { F8_E4M3: 1, BF16: 2, F32: 4 };
  let at = 0;
  const header: Record<string, unknown> = {};
  for (const [name, { dtype, shape }] of tensors) {
    const size = shape.reduce((product, extent) => product * extent, bytesOf[dtype] ?? Number.NaN);
    header[name] = { dtype, shape, data_offsets: [at, at + size] };
    at += size;
  }
  const text = Buffer.from(JSON.stringify(header).padEnd(Math.ceil(JSON.stringify(header).length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(path, "wx");
  try {
    const write = (bytes: Buffer) => {
      for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
    };
    write(length);
    write(text);
    for (const { bytes } of tensors.values()) write(bytes());
  } finally {
    closeSync(file);
  }
}
