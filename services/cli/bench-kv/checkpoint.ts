// A model folder whose cache has the row size that a bench asks for: the product's own native cache and copies, in whatever size, with
// weights too small to matter. Nothing is computed with it.
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const hidden = 8;
const heads = 1;
const headDim = 8;
const vocab = 16;

/** Rows are bfloat16: two bytes a number. */
export function writeCheckpoint(dir: string, rowBytes: number, layers: number, maxPositions: number): void {
  const ropeDim = headDim;
  const rank = rowBytes / 2 - ropeDim;
  if (!Number.isInteger(rank) || rank < 1) throw new Error(`no cache has rows of ${rowBytes} bytes`);
  const config = {
    architectures: ["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    vocab_size: vocab,
    hidden_size: hidden,
    intermediate_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    kv_lora_rank: rank,
    qk_nope_head_dim: headDim,
    qk_rope_head_dim: ropeDim,
    v_head_dim: headDim,
    max_position_embeddings: maxPositions,
    tie_word_embeddings: true,
  };
  const shapes: Record<string, number[]> = { "model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden] };
  for (let layer = 0; layer < layers; layer++) {
    const name = (rest: string) => `model.layers.${layer}.${rest}.weight`;
    shapes[name("input_layernorm")] = [hidden];
    shapes[name("post_attention_layernorm")] = [hidden];
    shapes[name("self_attn.q_proj")] = [heads * (headDim + ropeDim), hidden];
    shapes[name("self_attn.kv_a_proj_with_mqa")] = [rank + ropeDim, hidden];
    shapes[name("self_attn.kv_a_layernorm")] = [rank];
    shapes[name("self_attn.kv_b_proj")] = [heads * 2 * headDim, rank];
    shapes[name("self_attn.o_proj")] = [hidden, heads * headDim];
    for (const part of ["gate_proj", "up_proj", "down_proj"]) shapes[name(`mlp.${part}`)] = [hidden, hidden];
  }
  const header: Record<string, object> = {};
  let at = 0;
  for (const [tensor, shape] of Object.entries(shapes)) {
    const bytes = 4 * shape.reduce((product, extent) => product * extent, 1);
    header[tensor] = { dtype: "F32", shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  writeFileSync(join(dir, "model.safetensors"), Buffer.concat([length, text, Buffer.alloc(at)]));
}
