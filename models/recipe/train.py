"""A supervised stage: R1's cold start, or with --start the one after reinforcement. Data is made on the fly from a seed; a run can
stop anywhere and go on from its checkpoint.

    python train.py --out CHECKPOINT --steps 4000 --stop-after 520                   again with the same arguments to go on
    python train.py --start FOLDER --out CHECKPOINT --steps 6000 --seed 101          from an exported folder, with batches of its own

The last tenth asks every kind of task equally often, at a small rate: there the experts' biases settle on the mix they are measured on.

Prints tokens/s, loss and accuracy as it goes, and every --eval-seconds the greedy accuracy on held-out tasks.
"""
import argparse
import json
import os
import time

import torch
import torch.nn.functional as F

import data
import muon
import tasks
from evaluate import LocalEvaluator
from export import load_model, load_shards, save_shards
from model import Model, load_config

MTP_WEIGHT = .3
EVEN_TAIL = .1
EVAL_SEED = 1001


def losses(h, h2, head, ids, weight):
    """Weighted cross-entropy of the next token and, from the MTP layer, of the one after it; with how often each is right."""
    out = []
    for hidden, ahead in ((h, 1), (h2, 2)):
        target, w = ids.roll(-ahead), weight.roll(-ahead).float()
        logits = F.linear(hidden, head.to(hidden.dtype)).float()
        loss = F.cross_entropy(logits, target, reduction="none")
        hit = (logits.argmax(-1) == target) & (w > 0)
        out += [(loss * w).sum() / w.sum(), hit.sum() / (w > 0).sum()]
    return out


@torch.no_grad()
def balance(model, loads, rate):
    """Aux-loss-free balancing: an expert with more than its share gets a lower bias, one with less a higher."""
    for layer, load in zip(model.moe_layers(), loads.float()):
        layer.mlp.gate.e_score_correction_bias += rate * torch.sign(load.mean() - load)


def schedule(step, steps, since_start):
    """Warm-up, plateau, then linearly down to nothing over the second half. A resumed run warms up again for a moment, because
    Muon's momentum is not part of the checkpoint."""
    warm = min(1., (step + 1) / 200, (since_start + 1) / 30)
    return warm * min(1., (1 - step / steps) / .5)


def save(folder, model, optimizer, state):
    """Float32 weights and AdamW's moments (a few hundred KB), in shards; the momentum of 20 steps is not worth its size."""
    tensors = {n: t.float() for n, t in model.state_dict().items()}
    save_shards(folder, tensors)
    torch.save(optimizer.adam.state_dict(), os.path.join(folder, "adam.pt"))
    with open(os.path.join(folder, "state.json"), "w") as f:
        json.dump(state, f)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--start", help="exported folder to begin from; without it, from nothing")
    p.add_argument("--steps", type=int, required=True, help="of the whole stage; the learning rate follows it")
    p.add_argument("--stop-after", type=float, default=1e9, help="seconds from the start of this command")
    p.add_argument("--tokens", type=int, default=65536, help="per step")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=4)
    p.add_argument("--muon-rate", type=float, default=.02)
    p.add_argument("--adam-rate", type=float, default=3e-3)
    p.add_argument("--bias-rate", type=float, default=1e-2, help="a tenth of it at the end; a low one lets experts die in the first steps")
    p.add_argument("--eval-seconds", type=float, default=120)
    p.add_argument("--eval-each", type=int, default=32)
    p.add_argument("--eval-batch", type=int, default=512)
    p.add_argument("--config", default=os.path.dirname(os.path.abspath(__file__)))
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="bfloat16")
    p.add_argument("--no-compile", action="store_true")
    args = p.parse_args()
    begin = time.time()

    resumed = os.path.exists(os.path.join(args.out, "state.json"))
    state = {"step": 0, "seconds": 0., "history": []}
    if resumed:
        with open(os.path.join(args.out, "state.json")) as f:
            state = json.load(f)
    first = state["step"]
    stream = data.batches(args.seed, first, args.tokens, args.workers, int(args.steps * (1 - EVEN_TAIL)))
    batch = next(stream)  # the workers fork before the accelerator is touched

    torch.manual_seed(args.seed)
    config, device, dtype = load_config(args.config), args.device, getattr(torch, args.dtype)
    model = Model(config)
    if resumed:
        model.load_state_dict(load_shards(args.out))
    elif args.start:
        model.load_state_dict(load_model(args.start).state_dict())
    model.to(device)
    optimizer = muon.Optimizer(model, args.muon_rate, args.adam_rate)
    if resumed:
        optimizer.adam.load_state_dict(torch.load(os.path.join(args.out, "adam.pt"), map_location=device))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, step {first} of {args.steps}", flush=True)
    loss_of = losses
    if not args.no_compile:
        torch._dynamo.config.cache_size_limit = 64
        for layer in [*model.layers, model.mtp.layer]:
            layer.compile(dynamic=False)
        loss_of = torch.compile(losses, dynamic=False)
        muon.orthogonalise = torch.compile(muon.orthogonalise, dynamic=False)
    evaluator = LocalEvaluator(config, device, dtype, args.eval_batch)
    asked = tasks.held_out_tasks(EVAL_SEED, args.eval_each)

    step, mark, mark_step, last_eval = first, None, first, time.time()
    while step < args.steps and time.time() - begin < args.stop_after:
        ids, position, weight, bounds = (torch.from_numpy(a).to(device, non_blocking=True) for a in batch)
        ids = ids.long()
        h, h2, loads = model(ids, position, bounds, data.MAX_DOCUMENT, dtype)
        loss, hit, loss2, hit2 = loss_of(h, h2, model.lm_head.weight, ids, weight)
        optimizer.zero_grad()
        (loss + MTP_WEIGHT * loss2).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step(schedule(step, args.steps, step - first))
        balance(model, loads, args.bias_rate * (1 - .9 * step / args.steps))
        batch = next(stream)
        step += 1
        if step == first + 5:  # compiled by now
            if device == "cuda":
                torch.cuda.synchronize()
            print(f"first steps {time.time() - begin:.0f} s after the start", flush=True)
            mark, mark_step = time.time(), step
        if step % 200 == 0 and mark:
            row = {"step": step, "loss": round(loss.item(), 4), "mtp_loss": round(loss2.item(), 4), "accuracy": round(hit.item(), 4),
                   "mtp_accuracy": round(hit2.item(), 4), "load": round((loads.amax(1) / loads.float().mean(1)).max().item(), 2),
                   "norm": round(norm.item(), 2), "tokens_per_second": round((step - mark_step) * args.tokens / (time.time() - mark))}
            state["seconds"] += time.time() - mark
            mark, mark_step = time.time(), step
            state["history"].append(row)
            print(" ".join(f"{k} {v}" for k, v in row.items()), f"t {time.time() - begin:.0f}", flush=True)
        if time.time() - last_eval > args.eval_seconds:
            report = evaluator.run(model, asked)
            result = {"step": step, "held_out": report["accuracy"], **{k: v["accuracy"] for k, v in report["tasks"].items()}}
            state["history"].append(result)
            print("held out:", json.dumps(result), f"in {time.time() - last_eval - args.eval_seconds:.1f} s", flush=True)
            last_eval = time.time()
            mark, mark_step = time.time(), step
    state["step"] = step
    if step > first and not torch.isfinite(loss):
        raise SystemExit("the loss is not finite; the checkpoint is left as it was")
    save(args.out, model, optimizer, state)
    print(f"stopped at step {step} of {args.steps}, {time.time() - begin:.0f} s; checkpoint in {args.out}", flush=True)


if __name__ == "__main__":
    main()
