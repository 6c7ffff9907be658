"""Reinforcement stage: GRPO with rule-based rewards, from exported supervised weights (BF16 or FP8).

    python grpo.py FOLDER --out FOLDER2 --stop-after 540                          with --resume to go on from FOLDER2
    python grpo.py FOLDER --out FOLDER2 --stop-after 540 --resume --cool-down 240

One iteration is `--answers` answers from the batched sampler. A part goes to new questions, one greedy answer each, as the model is
judged; a question whose answer is wrong waits, and in a later iteration is asked again with a group of `--group` answers at temperature 1.
So groups are spent on what greedy answers get wrong, and most are mixed. A group still mixed and mostly wrong waits once more, TRIES in all.
New questions are of a kind in proportion to how often it failed lately, and never less than the floor.
Reward = right + well-formed, each 0 or 1; advantage = reward standardised inside its group; groups that agree teach nothing and are left out.
The answers are packed as in training and the policy takes `--minibatches` clipped steps on them, with a small KL to where it began.
The experts' biases go on being balanced, on a row of all kinds. The objective is averaged over tokens. The MTP layer follows the policy on the sampled text, detached, so that its guesses stay good.
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
from evaluate import LocalEvaluator
from export import load_model, load_shards, save_shards, write_folder
from sampler import Sampler
from train import EVAL_SEED, balance

LENGTH, MOST = 896, 576
FLOOR, MEMORY, WARM_UP = .02, .8, 10  # least weight of a kind; how much of its failure rate lasts an iteration; iterations of rising rate
TRIES, SOLVED, WAITING = 3, .75, 512  # groups a question gets; the share right at which it needs no more; questions that wait at most


def questions(rng, failing, n, thinking_off):
    """Training questions, drawn by how often their kind fails, a share of them with thinking off, whose prompt leaves room for a long thought."""
    found = []
    while len(found) < n:
        kind = rng.choices(list(failing), [max(FLOOR, f) for f in failing.values()])[0]
        task = tasks.make(rng, kind, kind not in tasks.AT_A_GLANCE or rng.random() >= thinking_off)
        prompt = chat.prompt_ids(task.messages, task.thinking)
        if not tasks.held_out(task.question) and len(prompt) <= LENGTH - MOST:
            found.append((task, prompt))
    return found


def failing_now(failing, graded):
    """The failure rates after these (kind, right) answers: a running mean, of the kinds that were asked."""
    rates = {k: [right for kind, right in graded if kind == k] for k in failing}
    return {k: round(MEMORY * f + (1 - MEMORY) * (1 - sum(rates[k]) / len(rates[k])), 5) if rates[k] else f for k, f in failing.items()}


def reward(task, response):
    right = tasks.check(task, chat.split_response(response, task.thinking)[1])
    return float(right), float(chat.well_formed(response, task.thinking))


def answers(sampler, chosen, temperatures):
    """A response to each question. Those whose own answer is about as long go together, and none may grow far beyond the longest of them."""
    expected = [len(chat.response_ids(task)) for task, _ in chosen]
    order = sorted(range(len(chosen)), key=lambda i: len(chosen[i][1]) + expected[i])
    said = {}
    for s in range(0, len(order), sampler.batch):
        part = order[s:s + sampler.batch]
        most = min(MOST, max(expected[i] for i in part) * 5 // 4 + 16)
        said.update(zip(part, sampler.generate([chosen[i][1] for i in part], most, [temperatures[i] for i in part])))
    return [said[i] for i in range(len(chosen))]


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


def even_row(rng, tokens, device):
    """A row of the training stream's own documents, every kind equally often, to see the experts' loads on."""
    documents, size = [], 0
    while True:
        task = tasks.training_task(rng, evenly=True)
        prompt, response = chat.prompt_ids(task.messages, task.thinking), chat.response_ids(task)
        if len(prompt) + len(response) <= LENGTH:
            if size + len(prompt) + len(response) > tokens:
                return next(packs(documents, tokens, device))
            documents.append((prompt, response, 0.))
            size += len(prompt) + len(response)


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


def save_state(folder, model, optimizer, state):
    """What --resume needs beyond the exported weights, in shards as small as theirs: float32 weights and AdamW's moments; the rest is `state.pt`."""
    names = [n for n, _ in model.named_parameters()]
    adam = optimizer.state_dict()
    moments = {f"{names[i]}.{key}": t for i, of in adam["state"].items() for key, t in of.items()}
    save_shards(folder, model.state_dict(), "policy")
    save_shards(folder, moments, "moments")
    torch.save({**state, "groups": adam["param_groups"]}, os.path.join(folder, "state.pt"))


def load_state(folder, model, optimizer, device):
    model.load_state_dict(load_shards(folder, "policy"))
    state = torch.load(os.path.join(folder, "state.pt"), map_location=device, weights_only=False)  # has questions: our own file, never another's
    moments = load_shards(folder, "moments")
    adam = {i: {key: moments[f"{n}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for i, (n, _) in enumerate(model.named_parameters()) if f"{n}.step" in moments}
    optimizer.load_state_dict({"state": adam, "param_groups": state.pop("groups")})
    return state


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("start", help="exported folder")
    p.add_argument("--out", required=True, help="BF16 folder, with what --resume goes on from")
    p.add_argument("--resume", action="store_true", help="go on from --out; the reference stays the start")
    p.add_argument("--iterations", type=int, default=10 ** 9)
    p.add_argument("--stop-after", type=float, default=1e9, help="seconds from the start of this command")
    p.add_argument("--cool-down", type=float, default=0., help="the last seconds before --stop-after, in which both rates fall to nothing")
    p.add_argument("--tasks", default=",".join(tasks.KINDS))
    p.add_argument("--thinking-off", type=float, default=0., help="share of the questions asked with thinking off")
    p.add_argument("--answers", type=int, default=3072, help="an iteration, in all")
    p.add_argument("--questions", type=int, default=128, help="that get a group, at most")
    p.add_argument("--group", type=int, default=16)
    p.add_argument("--batch", type=int, default=768, help="of the sampler")
    p.add_argument("--rate", type=float, default=5e-5)
    p.add_argument("--bias-rate", type=float, default=1e-3, help="by which the experts' biases go on moving, each iteration")
    p.add_argument("--clip", type=float, default=.2)
    p.add_argument("--beta", type=float, default=1e-3)
    p.add_argument("--minibatches", type=int, default=4)
    p.add_argument("--temperature", type=float, default=1., help="of a group's answers")
    p.add_argument("--tokens", type=int, default=32768, help="per packed row")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eval-each", type=int, default=500)
    p.add_argument("--eval-every", type=int, default=50)
    p.add_argument("--eval-batch", type=int, default=1024)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="bfloat16")
    p.add_argument("--no-compile", action="store_true")
    args = p.parse_args()
    begin = time.time()

    device, dtype, kinds = args.device, getattr(torch, args.dtype), args.tasks.split(",")
    torch.manual_seed(args.seed)
    model, reference = load_model(args.start, device), load_model(args.start, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(.9, .95), weight_decay=0.)
    state = {"iteration": 0, "failing": None, "waiting": [], "history": []}
    if args.resume:
        state = load_state(args.out, model, optimizer, device)
    history, waiting = state["history"], state["waiting"]
    if not args.no_compile:
        torch._dynamo.config.cache_size_limit = 64
        for m in (model, reference):
            for layer in [*m.layers, m.mtp.layer]:
                layer.compile(dynamic=False)
    sampler = Sampler(model.c, args.batch, LENGTH, device, dtype, not args.no_compile)
    evaluator = LocalEvaluator(model.c, device, dtype, args.eval_batch)
    asked = {"on": tasks.held_out_tasks(EVAL_SEED, args.eval_each)}
    if args.thinking_off:
        asked["off"] = tasks.held_out_tasks(EVAL_SEED, args.eval_each, thinking=False)

    def evaluate(iteration):
        for thinking, questions_asked in asked.items():
            report = evaluator.run(model, questions_asked, mtp=True)
            row = {"iteration": iteration, "thinking": thinking, "held_out": report["accuracy"], "mtp": report["mtp_accuracy"],
                   "load": max(report["load_max_over_mean"]), **{k: v["accuracy"] for k, v in report["tasks"].items()}}
            history.append(row)
            print("held out:", json.dumps(row), f"t {time.time() - begin:.0f}", flush=True)

    if not args.resume:
        evaluate(0)
    failing = state["failing"] or {k: 1 - history[-1].get(k, 0.) for k in kinds}
    iteration = evaluated = state["iteration"]
    while iteration < args.iterations and time.time() - begin < args.stop_after:
        iteration += 1
        start = time.time()
        rng = random.Random(f"grpo/{args.seed}/{iteration}")
        rng.shuffle(waiting)
        hard, waiting[:args.questions] = waiting[:args.questions], []
        fresh = questions(rng, failing, args.answers - args.group * len(hard), args.thinking_off)
        chosen = [(task, prompt) for task, prompt, _ in hard for _ in range(args.group)] + fresh
        sampler.load(model)
        grouped = args.group * len(hard)
        responses = answers(sampler, chosen, [args.temperature] * grouped + [0.] * len(fresh))
        sampled = time.time()
        scores = [reward(task, r) for (task, _), r in zip(chosen, responses)]
        new = [(task.kind, right) for (task, _), (right, _) in zip(fresh, scores[grouped:])]
        failing = failing_now(failing, new)
        r = torch.tensor(scores[:grouped]).reshape(len(hard), args.group, 2)
        waiting += [(task, prompt, tries + 1) for (task, prompt, tries), right in zip(hard, r[..., 0].mean(1).tolist())
                    if tries < TRIES and 0 < right < SOLVED]
        waiting += [(task, prompt, 1) for (task, prompt), (_, right) in zip(fresh, new) if not right]
        del waiting[:-WAITING]
        left = (args.stop_after - (start - begin)) / args.cool_down if args.cool_down else 1.
        left = min(1., max(0., left))
        rate = args.rate * min(left, iteration / WARM_UP)
        for g in optimizer.param_groups:
            g["lr"] = rate
        total = r.sum(-1)
        off = total - total.mean(1, keepdim=True)
        spread = off.square().mean(1, keepdim=True).sqrt()
        advantage = (off / (spread + 1e-4)).flatten().tolist()
        samples = [(prompt, said, a) for (_, prompt), said, a in zip(chosen, responses, advantage) if abs(a) > 1e-3]
        rng.shuffle(samples)
        rows = list(packs(samples, args.tokens, device))
        with torch.no_grad():
            old = [log_probs(model, *row[:3], dtype)[0] for row in rows]
            base = [log_probs(reference, *row[:3], dtype)[0] for row in rows]
        stats = torch.zeros(2, device=device)
        norm = 0.
        size = max(1, -(-len(rows) // args.minibatches))
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
                clipped = (ratio.detach() - 1).abs() > args.clip
                stats += torch.stack(((kl.detach() * mask).sum(), (clipped * mask).sum())) / count
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.))
            optimizer.step()
        with torch.no_grad():
            balance(model, model(*even_row(rng, args.tokens, device)[:3], LENGTH, dtype)[2], args.bias_rate * left)
        kl, clipped = (stats / max(1, -(-len(rows) // size))).tolist()
        row = {"iteration": iteration, "right": round(sum(right for _, right in new) / len(new), 4),
               "groups": len(hard), "mixed_groups": int((spread > 0).sum()), "groups_right": round(float(r[..., 0].mean()), 4) if hard else 0.,
               "well_formed": round(sum(s[1] for s in scores) / len(scores), 4), "waiting": len(waiting),
               "tokens": sum(map(len, responses)), "rows": len(rows), "rate": round(rate, 9), "kl": round(kl, 5), "clipped": round(clipped, 5),
               "norm": round(norm, 3), "sample_seconds": round(sampled - start, 2), "seconds": round(time.time() - start, 2)}
        print(" ".join(f"{k} {v}" for k, v in row.items()), f"t {time.time() - begin:.0f}", flush=True)
        history.append({**row, "failing": failing})
        if iteration % args.eval_every == 0:
            evaluate(iteration)
            evaluated = iteration
    if iteration > evaluated:
        evaluate(iteration)
    write_folder(args.out, model, fp8=False)
    save_state(args.out, model, optimizer, {"iteration": iteration, "failing": failing, "waiting": waiting, "history": history})
    with open(os.path.join(args.out, "grpo.json"), "w") as f:
        json.dump(history, f)
    print(f"stopped after {time.time() - begin:.0f} s; weights in {args.out}", flush=True)


if __name__ == "__main__":
    main()
