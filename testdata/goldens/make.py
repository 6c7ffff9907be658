#!/usr/bin/env python3
"""Makes the golden `deepseek-v2-lite`: a small random checkpoint and what the Hugging Face class computes from it in float32.

    pip install torch transformers safetensors
    python testdata/goldens/make.py testdata/goldens/deepseek-v2-lite
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

folder = Path(sys.argv[1])
torch.manual_seed(20261127)
config = DeepseekV2Config(
    vocab_size=160,
    hidden_size=96,
    intermediate_size=144,
    moe_intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    n_shared_experts=2,
    n_routed_experts=12,
    num_experts_per_tok=5,
    n_group=1,
    topk_group=1,
    topk_method="greedy",
    norm_topk_prob=False,
    routed_scaling_factor=1.0,
    first_k_dense_replace=1,
    kv_lora_rank=64,
    q_lora_rank=None,
    qk_rope_head_dim=16,
    qk_nope_head_dim=32,
    v_head_dim=32,
    max_position_embeddings=2560,
    bos_token_id=1,
    eos_token_id=2,
    rope_parameters={
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    },
    attn_implementation="eager",
)
model = DeepseekV2ForCausalLM(config).eval()
# Larger than the initial weights, so that attention and gate prefer something; not so large that one token always wins.
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "norm" not in name:
            weight.mul_(4.0)
        else:
            weight.add_(torch.randn_like(weight) * 0.1)
model.save_pretrained(folder, safe_serialization=True)

ids = torch.randint(3, config.vocab_size, (2, 150))
prompt = torch.randint(3, config.vocab_size, (2, 100))
with torch.no_grad():
    logits = model(ids).logits
    tokens = prompt
    for _ in range(40):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1].argmax(-1, keepdim=True)], 1)
save_file(
    {
        "input_ids": ids.to(torch.int32).contiguous(),
        "logits": logits.float().contiguous(),
        "greedy_prompt": prompt.to(torch.int32).contiguous(),
        "greedy_tokens": tokens[:, 100:].to(torch.int32).contiguous(),
    },
    folder / "golden.safetensors",
)
margins = logits.topk(2).values
print("logits", float(logits.std()), "least margin of the best", float((margins[..., 0] - margins[..., 1]).min()))
