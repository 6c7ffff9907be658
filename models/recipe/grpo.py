"""Reinforcement stage: GRPO with rule-based rewards, from exported supervised weights (BF16 or FP8).

    python grpo.py FOLDER --out FOLDER2 --iterations 200 --stop-after 520      with --resume to go on from FOLDER2

One iteration: `--questions` questions, `--group` answers to each at temperature 1 from the batched sampler; reward = right + well-formed,
each 0 or 1; advantage = reward standardised inside its group; groups that agree teach nothing and are left out. Questions go where
answers fail: a kind of task is drawn in proportion to how often it failed lately, and never less than the floor.
The answers are packed as in training and the policy takes `--minibatches` clipped steps on them, with a small KL to where it began.
The objective is averaged over tokens. The MTP layer follows the policy on the sampled text, detached, so that its guesses stay good.
"""
import argparse
import copy
import json
import os
import random
import time

import torch
import torch.nn.functional as F

import chat
import data
import tasks
from evaluate import SEED, LocalEvaluator
from export import load_model, write_folder
from sampler import Sampler

LENGTH = 896
FLOOR, MEMORY, WARM_UP = .02, .8, 10  # least weight of a kind; how much of its failure rate lasts an iteration; iterations of rising rate


def questions(rng, failing, n, thinking_off):
    """Training questions, drawn by how often their kind fails, a share of them with thinking off, whose prompt leaves room for a long thought."""
    found = []
    while len(found) < n:
        kind = rng.choices(list(failing), [max(FLOOR, f) for f in failing.values()])[0]
        task = tasks.make(rng, kind, kind not in tasks.AT_A_GLANCE or rng.random() >= thinking_off)
        prompt = chat.prompt_ids(task.messages, task.thinking)
        if not tasks.held_out(task.question) and len(prompt) <= LENGTH - 576:
            found.append((task, prompt))
    return found


def failing_now(failing, graded):
    """The failure rates after these (kind, right) answers: a running mean, of the kinds that were asked."""
    rates = {k: [right for kind, right in graded if kind == k] for k in failing}
    return {k: round(MEMORY * f + (1 - MEMORY) * (1 - sum(rates[k]) / len(rates[k])), 5) if rates[k] else f for k, f in failing.items()}


def reward(task, response):
    right = tasks.check(task, chat.split_response(response, task.thinking)[1])
    return float(right), float(chat.well_formed(response, task.thinking))


def log_probs(model, ids, position, bounds, dtype):
    """The log-probability of each next token, [N - 1], and the MTP layer's loss per token, [N - 2]."""
    h, h2, _ = model(ids, position, bounds, LENGTH, dtype, detach=True)
    head = model.lm_head.weight.to(dtype)
    said = F.linear(h[:-1], head).float().log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    guess = F.cross_entropy(F.linear(h2[:-2], head.detach()).float(), ids[2:], reduction="none")
    return said, guess


def packs(samples, tokens, device):
    """Rows of `tokens` tokens of (prompt, response, advantage) samples: ids, position, bounds, advantage per token, mask of responses."""
    rows, current, size = [], [], 0
    for s in samples:
        n = len(s[0]) + len(s[1])
        if size + n > tokens:
            rows.append(current)
            current, size = [], 0
        current.append(s)
        size += n
    if current:
        rows.append(current)
    for row in rows:
        ids, position, mask, bounds = data.pack([(p, r, 1) for p, r, _ in row], tokens, max_documents=tokens // 24)
        advantage = torch.zeros(tokens)
        at = 0
        for p, r, a in row:
            advantage[at + len(p):at + len(p) + len(r)] = a
            at += len(p) + len(r)
        bounds, position = padding_documents(bounds, position, at, tokens)
        yield [torch.from_numpy(x).to(device) for x in (ids.astype("int64"), position, bounds)] + [
            advantage.to(device)[1:], torch.from_numpy(mask).to(device)[1:] > 0]


def padding_documents(bounds, position, used, tokens):
    """Padding cut into documents no longer than LENGTH, since attention is told that nothing is longer."""
    cuts = list(range(used, tokens, LENGTH)) + [tokens]
    real = [int(b) for b in bounds if b < used]
    filled = real + cuts
    for a, b in zip(cuts, cuts[1:]):
        position[a:b] = range(b - a)
    bounds[:len(filled)] = filled
    bounds[len(filled):] = tokens
    return bounds, position


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("start", help="exported folder")
    p.add_argument("--out", required=True)
    p.add_argument("--resume", action="store_true", help="go on from --out; the reference stays the start")
    p.add_argument("--iterations", type=int, default=200)
    p.add_argument("--stop-after", type=float, default=1e9)
    p.add_argument("--tasks", default=",".join(tasks.KINDS))
    p.add_argument("--thinking-off", type=float, default=0., help="share of the questions asked with thinking off")
    p.add_argument("--questions", type=int, default=96)
    p.add_argument("--group", type=int, default=16)
    p.add_argument("--rate", type=float, default=1e-4)
    p.add_argument("--clip", type=float, default=.2)
    p.add_argument("--beta", type=float, default=1e-3)
    p.add_argument("--minibatches", type=int, default=2)
    p.add_argument("--temperature", type=float, default=1.)
    p.add_argument("--tokens", type=int, default=32768, help="per packed row")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eval-each", type=int, default=100)
    p.add_argument("--eval-every", type=int, default=25)
    p.add_argument("--eval-batch", type=int, default=512)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="bfloat16")
    args = p.parse_args()
    begin = time.time()

    device, dtype, kinds = args.device, getattr(torch, args.dtype), args.tasks.split(",")
    torch.manual_seed(args.seed)
    history = []
    if args.resume:
        with open(os.path.join(args.out, "grpo.json")) as f:
            history = json.load(f)
    done = max((h["iteration"] for h in history), default=0)
    model = load_model(args.out if args.resume else args.start, device)
    reference = load_model(args.start, device).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(.9, .95), weight_decay=0.)
    sampler = Sampler(model.c, args.questions * args.group, LENGTH, device, dtype)
    evaluator = LocalEvaluator(model.c, device, dtype, args.eval_batch)
    asked = {"on": tasks.held_out_tasks(SEED, args.eval_each)}
    if args.thinking_off:
        asked["off"] = tasks.held_out_tasks(SEED, args.eval_each, thinking=False)

    def evaluate(iteration):
        for thinking, questions_asked in asked.items():
            report = evaluator.run(model, questions_asked, mtp=True)
            row = {"iteration": iteration, "thinking": thinking, "held_out": report["accuracy"], "mtp": report["mtp_accuracy"],
                   **{k: v["accuracy"] for k, v in report["tasks"].items()}}
            history.append(row)
            print("held out:", json.dumps(row), flush=True)

    if not args.resume:
        evaluate(0)
    failing = history[-1].get("failing") or {k: 1 - history[-1].get(k, 0.) for k in kinds}
    iteration = evaluated = done
    for iteration in range(done + 1, args.iterations + 1):
        if time.time() - begin > args.stop_after:
            iteration -= 1
            break
        start = time.time()
        rng = random.Random(f"grpo/{args.seed}/{iteration}")
        chosen = [q for q in questions(rng, failing, args.questions, args.thinking_off) for _ in range(args.group)]
        sampler.load(model)
        responses = sampler.generate([prompt for _, prompt in chosen], 576, args.temperature)
        sampled = time.time()
        scores = [reward(task, r) for (task, _), r in zip(chosen, responses)]
        failing = failing_now(failing, [(task.kind, right) for (task, _), (right, _) in zip(chosen, scores)])
        for g in optimizer.param_groups:
            g["lr"] = args.rate * min(1., (iteration - done) / WARM_UP)
        r = torch.tensor([a + b for a, b in scores]).reshape(args.questions, args.group)
        advantage = ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4)).flatten().tolist()
        samples = [(prompt, said, a) for (_, prompt), said, a in zip(chosen, responses, advantage) if abs(a) > 1e-3]
        rng.shuffle(samples)
        rows = list(packs(samples, args.tokens, device))
        with torch.no_grad():
            old = [log_probs(model, *row[:3], dtype)[0] for row in rows]
            base = [log_probs(reference, *row[:3], dtype)[0] for row in rows]
        stats = {"kl": 0., "clipped": 0., "norm": 0.}
        size = -(-len(rows) // args.minibatches) if rows else 1
        for s in range(0, len(rows), size):
            part = range(s, min(s + size, len(rows)))
            count = sum(int(rows[i][4].sum()) for i in part)
            optimizer.zero_grad()
            for i in part:
                ids, position, bounds, a, mask = rows[i]
                now, guess = log_probs(model, ids, position, bounds, dtype)
                ratio = (now - old[i]).exp()
                gain = torch.minimum(ratio * a, ratio.clamp(1 - args.clip, 1 + args.clip) * a)
                kl = (base[i] - now).exp() - (base[i] - now) - 1
                loss = ((args.beta * kl - gain) * mask).sum() / count + .1 * (guess * mask[1:]).sum() / count
                loss.backward()
                stats["kl"] += float((kl.detach() * mask).sum()) / count
                stats["clipped"] += float((((ratio.detach() - 1).abs() > args.clip) * mask).sum()) / count
            stats["norm"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.))
            optimizer.step()
        row = {"iteration": iteration, "right": round(sum(s[0] for s in scores) / len(scores), 4),
               "well_formed": round(sum(s[1] for s in scores) / len(scores), 4), "mixed_groups": int((r.std(1) > 0).sum()),
               "tokens": sum(map(len, responses)), "kl": round(stats["kl"] / args.minibatches, 5), "clipped": round(stats["clipped"] / args.minibatches, 5),
               "norm": round(stats["norm"], 3), "sample_seconds": round(sampled - start, 2), "seconds": round(time.time() - start, 2)}
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        history.append({**row, "failing": failing})
        if iteration % args.eval_every == 0:
            evaluate(iteration)
            evaluated = iteration
    if iteration > evaluated:
        evaluate(iteration)
    write_folder(args.out, model, fp8=False)
    with open(os.path.join(args.out, "grpo.json"), "w") as f:
        json.dump(history, f)
    print(f"stopped after {time.time() - begin:.0f} s; weights in {args.out}", flush=True)


if __name__ == "__main__":
    main()
