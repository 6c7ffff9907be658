"""Checkpoint to Hugging Face folders: one in BF16, one in FP8 with 128x128 block scales as DeepSeek ships them.

    python export.py CHECKPOINT --bf16 OUT --fp8 OUT

The reverse, `load_model`, reads either kind of folder; GRPO starts from what was exported.
"""
import argparse
import json
import os
import re

import torch
from safetensors.torch import load_file, save_file

import chat
from model import Model, load_config

SHARD_BYTES = 15 * 2 ** 20 - 2 ** 18  # of tensors: the file with its header stays under 15 MiB
BLOCK = 128
EXPERT = re.compile(r"(.*\.mlp\.experts)\.(gate_proj|up_proj|down_proj)$")


# ---- names ----------------------------------------------------------------------------------------------------------------

def outer_name(name, c):
    """Hugging Face's name of one of our parameters. The MTP layer is the one after the last, its norm sits in `shared_head`."""
    mtp = f"model.layers.{c.num_hidden_layers}."
    if name == "lm_head.weight":
        return name
    if name.startswith("mtp.layer."):
        return mtp + name[len("mtp.layer."):]
    if name == "mtp.norm.weight":
        return mtp + "shared_head.norm.weight"
    if name.startswith("mtp."):
        return mtp + name[len("mtp."):]
    return "model." + name


def to_hugging_face(model):
    tensors = {}
    for name, t in model.state_dict().items():
        name = outer_name(name, model.c)
        stacked = EXPERT.match(name)
        if stacked:
            for e in range(t.shape[0]):
                tensors[f"{stacked[1]}.{e}.{stacked[2]}.weight"] = t[e]
        else:
            tensors[name] = t
    return tensors


def from_hugging_face(model, tensors):
    state = {}
    for name, t in model.state_dict().items():
        outer = outer_name(name, model.c)
        stacked = EXPERT.match(outer)
        if stacked:
            state[name] = torch.stack([tensors[f"{stacked[1]}.{e}.{stacked[2]}.weight"].to(t.dtype) for e in range(t.shape[0])])
        else:
            state[name] = tensors[outer].to(t.dtype)
    model.load_state_dict(state)


# ---- FP8 ------------------------------------------------------------------------------------------------------------------

def is_fp8(name):
    """The products of attention and MLPs; not embedding, head, norms, gate and eh_proj."""
    return name.endswith("_proj.weight") and "eh_proj" not in name or name.endswith("kv_a_proj_with_mqa.weight")


def quantise(w):
    """E4M3 values and the float32 multiplier of each 128x128 block; blocks at the edge are cut."""
    rows, cols = w.shape
    padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-cols // BLOCK) * BLOCK)
    padded[:rows, :cols] = w.float()
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
    q = (blocks / scale[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return q.reshape(padded.shape)[:rows, :cols].contiguous(), scale


def dequantise(q, scale):
    rows, cols = q.shape
    return q.float() * scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :cols]


# ---- files ----------------------------------------------------------------------------------------------------------------

def save_shards(folder, tensors, stem="model"):
    """Safetensors in shards small enough for a repository, with the index that Hugging Face's loaders read."""
    os.makedirs(folder, exist_ok=True)
    for old in os.listdir(folder):
        if old.startswith(stem + "-") or old == stem + ".safetensors.index.json":
            os.remove(os.path.join(folder, old))
    shards, size = [{}], 0
    for name, t in tensors.items():
        n = t.numel() * t.element_size() + len(name) + 120
        if size + n > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = t.detach().cpu().contiguous()
        size += n
    where, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, os.path.join(folder, file), metadata={"format": "pt"})
        os.chmod(os.path.join(folder, file), 0o644)  # the library makes them private
        total += sum(t.numel() * t.element_size() for t in shard.values())
        where.update({name: file for name in shard})
    with open(os.path.join(folder, stem + ".safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": where}, f)


def load_shards(folder, stem="model"):
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.startswith(stem) and file.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, file)))
    return tensors


def load_model(folder, device="cpu"):
    """The model of an exported folder, BF16 or FP8, in float32."""
    tensors = load_shards(folder)
    for name in [n for n in tensors if n.endswith(".weight_scale_inv")]:
        weight = name[:-len("_scale_inv")]
        tensors[weight] = dequantise(tensors[weight], tensors.pop(name))
    model = Model(load_config(folder))
    from_hugging_face(model, tensors)
    return model.to(device)


def write_folder(folder, model, fp8):
    tensors = {}
    for name, t in to_hugging_face(model).items():
        if name.endswith("e_score_correction_bias"):
            tensors[name] = t.float()
        elif fp8 and is_fp8(name):
            tensors[name], tensors[name + "_scale_inv"] = quantise(t.detach().cpu())
        else:
            tensors[name] = t.to(torch.bfloat16)
    save_shards(folder, tensors)
    config = dict(vars(load_config()), **vars(model.c))
    config.pop("quantization_config", None)
    if fp8:
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    with open(os.path.join(folder, "generation_config.json"), "w") as f:
        json.dump({"bos_token_id": chat.BOS, "eos_token_id": chat.EOS, "pad_token_id": chat.PAD}, f, indent=2)
    chat.write_tokenizer(folder)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", help="a trainer's checkpoint, or an exported folder")
    p.add_argument("--bf16")
    p.add_argument("--fp8")
    args = p.parse_args()
    if os.path.exists(os.path.join(args.checkpoint, "config.json")):
        model = load_model(args.checkpoint)
    else:
        model = Model(load_config())
        model.load_state_dict(load_shards(args.checkpoint))
    for folder, fp8 in ((args.bf16, False), (args.fp8, True)):
        if folder:
            write_folder(folder, model, fp8)
            print(folder, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)), "bytes", sorted(os.listdir(folder)))


if __name__ == "__main__":
    main()
