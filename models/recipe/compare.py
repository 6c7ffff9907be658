"""The transformers classes beside a server, on held-out prompts, greedily, token by token.

    ./pelagic up --model FOLDER --kv-dtype float32
    python compare.py FOLDER --base-url http://127.0.0.1:8000/v1 [--prompts 200] [--json report.json]

FOLDER is the BF16 export that the server serves; transformers computes on its weights in float32 with the tokenizer's own chat template,
on the CPU, and generates each answer with `generate`. The server is given the same token ids and asked for the ids it says
(`return_token_ids`), not for text. Where two answers part, the report has transformers' logits of both tokens there: a near tie, or a
fault. Exit code 0 only where all are equal.
"""
import argparse
import json
import os
import sys
import time

import chat
import tasks
from evaluate import SEED, Failed, call, first_model

MOST = 600


def prompts(n):
    """n held-out tasks, as many of each kind as can be."""
    each = tasks.held_out_tasks(SEED, -(-n // len(tasks.KINDS)))
    rounds = len(each) // len(tasks.KINDS)
    return [each[kind * rounds + i] for i in range(rounds) for kind in range(len(tasks.KINDS))][:n]


def said_by_server(base_url, model, key, ids):
    body = {"model": model, "prompt": ids, "max_tokens": MOST, "temperature": 0, "return_token_ids": True}
    reply = call(base_url.rstrip("/") + "/completions", key, 300, body)
    try:
        return reply["choices"][0]["token_ids"]
    except (LookupError, TypeError):
        raise Failed(f"{base_url} gives no token_ids: {json.dumps(reply)[:200]}")


def parting(model, ids, ours, theirs):
    """Where two answers first differ, and what transformers' logits say of the two tokens there."""
    import torch
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    with torch.no_grad():
        logits = model(torch.tensor([ids + theirs[:at]])).logits[0, -1]
    a, b = (tokens[at] if at < len(tokens) else None for tokens in (ours, theirs))
    return {"at": at, "server": a, "transformers": b, "logits": [None if t is None else round(float(logits[t]), 5) for t in (a, b)]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--base-url", required=True)
    p.add_argument("--key", default=os.environ.get("OPENAI_API_KEY", "none"))
    p.add_argument("--prompts", type=int, default=200)
    p.add_argument("--json")
    args = p.parse_args()
    import torch
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    served, start = first_model(args.base_url, args.key, 30), time.time()
    equal, tokens, right, differences = 0, 0, 0, []
    asked = prompts(args.prompts)
    for n, task in enumerate(asked, 1):
        ids = tokenizer.apply_chat_template(task.messages, add_generation_prompt=True, return_dict=False)
        ours = said_by_server(args.base_url, served, args.key, ids)
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=MOST, do_sample=False)
        theirs = out[0, len(ids):].tolist()
        equal += ours == theirs
        tokens += len(theirs)
        right += tasks.check(task, chat.split_response(theirs)[1])
        if ours != theirs:
            differences.append({"kind": task.kind, "question": task.question[-160:], **parting(model, ids, ours, theirs)})
            print(differences[-1], file=sys.stderr, flush=True)
        if n % 10 == 0:
            print(f"{n}/{len(asked)} asked, {equal} equal, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    report = {"class": type(model).__name__, "transformers": transformers.__version__, "torch": torch.__version__, "prompts": len(asked), "equal": equal,
              "tokens": tokens, "right": right, "differences": differences}
    print(json.dumps(report))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)
    sys.exit(equal != len(asked))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
