#!/usr/bin/env python3
"""Makes golden.safetensors and weights.sha256 of a golden: what the Hugging Face class computes in float32 from the weights that
pelagic_golden_weights writes.

    pip install torch transformers safetensors
    python testdata/goldens/make.py build/native-cmake/pelagic_golden_weights testdata/goldens/deepseek-v2-lite

Prints how well the outputs tell one model from another, and how near the router came to another choice of experts; another seed in
weights.json gives others.
"""
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def float32_model(weights: Path, config: dict):
    """Through a folder of its own, without quantisation: transformers runs FP8 on some GPUs only."""
    stored = {}
    for file in sorted(weights.glob("*.safetensors")):
        stored.update(load_file(file))
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        tensors[name] = tensor.float()
        if name + "_scale_inv" in stored:
            rows, columns = tensor.shape
            scales = stored[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            tensors[name] *= scales[:rows, :columns]
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        plain = {key: value for key, value in config.items() if key != "quantization_config"}
        (Path(folder) / "config.json").write_text(json.dumps(plain))
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise SystemExit(f"the weights are not those of the class: {wrong}")
    return model.eval()


class RouterMargins:
    """The least distance of a router's scores from another choice, over all rows it saw."""

    def __init__(self, model, config: dict):
        self.config, self.least, self.counts = config, float("inf"), []
        for module_name, module in model.named_modules():
            if module_name.endswith("mlp.gate"):
                self.counts.append(torch.zeros(config["n_routed_experts"]))
                module.register_forward_hook(self.hook(self.counts[-1]))

    def hook(self, counts):
        def see(gate, args, result):
            config = self.config
            logits = args[0].reshape(-1, config["hidden_size"]).double() @ gate.weight.double().T
            if config["model_type"] == "deepseek_v2":
                scores = logits.softmax(-1)
            else:
                scores = logits.sigmoid() + gate.e_score_correction_bias.double()
            groups, kept = config["n_group"], config["topk_group"]
            if kept < groups:
                grouped = scores.reshape(len(scores), groups, -1)
                group_scores = grouped.topk(2).values.sum(-1)
                ordered = group_scores.sort(descending=True)
                self.least = min(self.least, float((ordered.values[:, kept - 1] - ordered.values[:, kept]).min()))
                mask = torch.zeros_like(group_scores).scatter(1, ordered.indices[:, :kept], 1).unsqueeze(-1)
                scores = grouped.masked_fill(mask == 0, -1).reshape(len(scores), -1)
            k = config["num_experts_per_tok"]
            ordered = scores.sort(descending=True)
            self.least = min(self.least, float((ordered.values[:, k - 1] - ordered.values[:, k]).min()))
            chosen = ordered.indices[:, :k]
            if not torch.equal(chosen.sort().values, result[2].sort().values):
                raise SystemExit("the router chose otherwise than these scores say")
            counts.add_(torch.bincount(chosen.flatten(), minlength=len(counts)))

        return see


@torch.no_grad()
def outputs(model, config: dict, seed: int) -> dict:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, config["vocab_size"], (2, 150), generator=random)
    prompt = torch.randint(3, config["vocab_size"], (2, 100), generator=random)
    margins = RouterMargins(model, config)
    logits = model(ids).logits
    tokens, least = prompt, float("inf")
    for _ in range(40):
        last = model(tokens).logits[:, -1]
        best = last.topk(2).values
        least = min(least, float((best[:, 0] - best[:, 1]).min()))
        tokens = torch.cat([tokens, last.argmax(-1, keepdim=True)], 1)
    top = logits.topk(2).values
    print(
        f"logits: standard deviation {logits.std():.3f}, {len(logits.argmax(-1).unique())} tokens are the best somewhere, by {(top[..., 0] - top[..., 1]).median():.3f} "
        f"in the median; greedy: {len(tokens[:, 100:].unique())} tokens, each the best by {least:.2g} at least\n"
        f"router: {margins.least:.2g} from another choice at the nearest; an expert gets "
        f"{min(int(counts.min()) for counts in margins.counts)} to {max(int(counts.max()) for counts in margins.counts)} rows"
    )
    return {
        "input_ids": ids.to(torch.int32),
        "logits": logits.float().contiguous(),
        "greedy_prompt": prompt.to(torch.int32),
        "greedy_tokens": tokens[:, 100:].to(torch.int32).contiguous(),
    }


def main(writer: str, golden: Path) -> None:
    config = json.loads((golden / "config.json").read_text())
    seed = json.loads((golden / "weights.json").read_text())["seed"]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        subprocess.run([writer, golden / "weights.json", weights], check=True)
        sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(weights.glob("*.safetensors"))]
        save_file(outputs(float32_model(weights, config), config, seed), golden / "golden.safetensors")
    (golden / "weights.sha256").write_text("".join(sums))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
