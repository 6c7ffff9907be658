"""The transformers classes beside a server, on held-out prompts, greedily, token by token.

    ./pelagic up --model FOLDER --kv-dtype float32
    python compare.py FOLDER --base-url http://127.0.0.1:8000/v1 [--prompts 200] [--json report.json]

FOLDER is the BF16 export that the server serves. The server is given the token ids that the tokenizer's own chat template makes, and asked
for the ids it says (`return_token_ids`), not for text. transformers computes on the same weights in float32 on the CPU, in one forward
pass over prompt and answer: where its most likely token is the server's at every position, the last one included, its greedy answer is
the server's. Where they part, the report has transformers' logits of both tokens there: a near tie, or a fault. `smallest_margin` is the least by
which its first choice ever won. Exit code 0 only where all answers are equal.
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


def check(model, ids, said):
    """Where transformers would say something else than the server first, if anywhere; and by how much its first choices won."""
    import torch
    with torch.no_grad():
        logits = model(torch.tensor([ids + said])).logits[0, len(ids) - 1:-1]
    best = logits.topk(2)
    margin = float((best.values[:, 0] - best.values[:, 1]).min())
    for at, (ours, theirs) in enumerate(zip(said, best.indices[:, 0].tolist())):
        if ours != theirs:
            return {"at": at, "server": ours, "transformers": theirs, "logits": [round(float(logits[at, t]), 5) for t in (ours, theirs)]}, margin
    return None, margin


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
    asked, tokens, right, margins, differences = prompts(args.prompts), 0, 0, [], []
    for n, task in enumerate(asked, 1):
        ids = tokenizer.apply_chat_template(task.messages, add_generation_prompt=True, return_dict=False)
        said = said_by_server(args.base_url, served, args.key, ids)
        difference, margin = check(model, ids, said)
        margins.append(margin)
        tokens += len(said)
        right += tasks.check(task, chat.split_response(said)[1])
        if difference:
            differences.append({"kind": task.kind, "question": task.question[-160:], **difference})
            print(differences[-1], file=sys.stderr, flush=True)
        if n % 20 == 0:
            print(f"{n}/{len(asked)} asked, {n - len(differences)} equal, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    report = {"class": type(model).__name__, "transformers": transformers.__version__, "torch": torch.__version__, "prompts": len(asked),
              "equal": len(asked) - len(differences), "tokens": tokens, "right": right, "smallest_margin": round(min(margins), 4), "differences": differences}
    print(json.dumps(report))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)
    sys.exit(bool(differences))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
