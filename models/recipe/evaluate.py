"""Held-out evaluation: greedy answers, exact match, per task.

    python evaluate.py --base-url http://127.0.0.1:8000/v1 [--model NAME] [--each 32] [--json report.json]   any OpenAI-compatible server
    python evaluate.py --local FOLDER [--each 128] [--json report.json]                                      an exported folder, batched

The first form needs nothing but Python's standard library; `./pelagic eval` is the same. The second also measures the MTP layer on
the model's own continuations and the balance of the experts. Progress goes to stderr.
"""
import argparse
import concurrent.futures
import http.client
import itertools
import json
import os
import sys
import time
import urllib.error
import urllib.request

import chat
import tasks

SEED = 1


def first_wrong_line(task, thought):
    """Where a thought first leaves the expected steps: the line that was expected and the one that was written."""
    pairs = itertools.zip_longest(task.thought.strip().split("\n"), thought.strip().split("\n"), fillvalue="")
    return next(({"step": want, "written": got[:160]} for want, got in pairs if want != got), {})


def summary(graded, failures=3):
    """Accuracy and lengths per task from (task, right, thought, answer) tuples, and some failures of each."""
    kinds, wrong = {}, []
    for kind in tasks.KINDS:
        rows = [g for g in graded if g[0].kind == kind]
        if rows:
            kinds[kind] = {"asked": len(rows), "right": sum(g[1] for g in rows), "accuracy": round(sum(g[1] for g in rows) / len(rows), 4),
                           "thought_bytes": round(sum(len(g[2].encode()) for g in rows) / len(rows), 1)}
    for task, right, thought, answer in graded:
        if not right and sum(w["kind"] == task.kind for w in wrong) < failures:
            wrong.append({"kind": task.kind, "question": task.question[-160:], "expected": task.answer, "got": answer[:160],
                          **first_wrong_line(task, thought)})
    return {"accuracy": round(sum(g[1] for g in graded) / len(graded), 4), "asked": len(graded),
            "mean_of_tasks": round(sum(k["accuracy"] for k in kinds.values()) / len(kinds), 4), "tasks": kinds, "failures": wrong}


def show(report):
    for kind, k in report["tasks"].items():
        print(f"{kind:10s} {k['right']:5d}/{k['asked']:<5d} {100 * k['accuracy']:6.1f}%   thought {k['thought_bytes']:6.1f} bytes")
    print(f"{'overall':10s} {100 * report['accuracy']:.2f}% of {report['asked']}", flush=True)


# ---- through an API -------------------------------------------------------------------------------------------------------

def call(url, key, timeout, body=None):
    """The JSON that an API answers; a request that fails ends the evaluation, since what is left out would flatter or blame the model."""
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(),
                                     {"content-type": "application/json", "authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Failed(f"{url}: status {error.code}: {error.read(500).decode(errors='replace').strip()}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed(f"{url}: {error}")


class Failed(Exception):
    pass


def ask(base_url, model, key, task, timeout):
    body = {"model": model, "messages": task.messages, "temperature": 0, "max_tokens": 600, "stream": False}
    if not task.thinking:
        body["thinking"] = {"type": "disabled"}                 # DeepSeek's API
        body["chat_template_kwargs"] = {"thinking": False}      # servers that pass arguments to the template
    reply = call(base_url.rstrip("/") + "/chat/completions", key, timeout, body)
    try:
        message = reply["choices"][0]["message"]
        thought, content = message.get("reasoning_content") or message.get("reasoning") or "", message.get("content") or ""
    except (LookupError, TypeError, AttributeError):
        raise Failed(f"{base_url}: no chat completion: {json.dumps(reply)[:200]}")
    if "</think>" in content:  # a server that does not separate the two
        thought, content = content.split("</think>", 1)
    return task, tasks.check(task, content), thought.strip(), content.strip()


def first_model(base_url, key, timeout):
    listed = call(base_url.rstrip("/") + "/models", key, timeout)
    try:
        return listed["data"][0]["id"]
    except (LookupError, TypeError):
        raise Failed(f"{base_url} lists no models: name one with --model")


def through_api(args, asked):
    start = time.time()
    model = args.model or first_model(args.base_url, args.key, args.timeout)
    graded = []
    pool = concurrent.futures.ThreadPoolExecutor(args.concurrency)
    try:
        for row in pool.map(lambda t: ask(args.base_url, model, args.key, t, args.timeout), asked):
            graded.append(row)
            if len(graded) % 50 == 0:
                print(f"{len(graded)}/{len(asked)} asked, {sum(g[1] for g in graded)} right, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return {"model": model, "thinking": asked[0].thinking, "seconds": round(time.time() - start, 1), **summary(graded, args.failures)}


# ---- locally --------------------------------------------------------------------------------------------------------------

SHORT = dict(length=896, most=576)     # ordinary questions with long thoughts
LONG = dict(length=4608, most=576)      # prompts that leave no room there: long ones, whose answers are short, and earlier turns


class LocalEvaluator:
    def __init__(self, config, device, dtype, batch=512):
        from sampler import Sampler
        self.short = Sampler(config, batch, SHORT["length"], device, dtype)
        self.long = Sampler(config, max(1, batch // 5), LONG["length"], device, dtype)
        self.device, self.dtype = device, dtype

    def run(self, model, asked, mtp=False, failures=3):
        from sampler import teacher_forced
        self.short.load(model)
        self.long.model = self.short.model
        prompts = [chat.prompt_ids(t.messages, t.thinking) for t in asked]
        fits = SHORT["length"] - SHORT["most"]
        order = sorted(range(len(asked)), key=lambda i: len(prompts[i]) + len(chat.response_ids(asked[i])))  # equally long ones together
        said = {}
        for sampler, most, mine in ((self.short, SHORT["most"], [i for i in order if len(prompts[i]) <= fits]),
                                    (self.long, LONG["most"], [i for i in order if len(prompts[i]) > fits])):
            for s in range(0, len(mine), sampler.batch):
                part = mine[s:s + sampler.batch]
                said.update(zip(part, sampler.generate([prompts[i] for i in part], most)))
        graded, tokens = [], 0
        for i, task in enumerate(asked):
            thought, answer = chat.split_response(said[i], task.thinking)
            graded.append((task, tasks.check(task, answer), thought, answer))
            tokens += len(said[i])
        report = summary(graded, failures)
        report["tokens"] = tokens
        if mtp:
            rate, loads = teacher_forced(self.short.model, prompts, [said[i] for i in range(len(asked))], self.device, self.dtype)
            report["mtp_accuracy"] = round(rate, 4)
            report["load_max_over_mean"] = [round(float(l.max() / l.mean()), 3) for l in loads]
        return report


def locally(args, asked):
    import torch
    from export import load_model
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(args.local, device)
    start = time.time()
    report = LocalEvaluator(model.c, device, getattr(torch, args.dtype), args.batch).run(model, asked, mtp=True, failures=args.failures)
    report["seconds"] = round(time.time() - start, 1)
    print(f"{report['tokens']} tokens in {report['seconds']} s; MTP right {100 * report['mtp_accuracy']:.2f}%, "
          f"largest load over mean per layer {report['load_max_over_mean']}")
    return report


def chosen_kinds(named, thinking):
    """The kinds in `named`, a list with commas, each once; all that can be asked where it is None."""
    can = [kind for kind in tasks.KINDS if thinking or kind in tasks.AT_A_GLANCE]
    if named is None:
        return can
    kinds = list(dict.fromkeys(kind.strip() for kind in named.split(",")))
    for kind in kinds:
        if kind not in can:
            raise ValueError(f"{kind!r} cannot be answered without a thought" if kind in tasks.KINDS else f"{kind!r} is none of {', '.join(can)}")
    return kinds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base-url")
    p.add_argument("--model", help="as the server calls it; the first that it lists otherwise")
    p.add_argument("--key", default=os.environ.get("OPENAI_API_KEY", "none"))
    p.add_argument("--local")
    p.add_argument("--each", type=int, default=32, help="held-out questions of each kind")
    p.add_argument("--kinds", help=f"only these of {','.join(tasks.KINDS)}")
    p.add_argument("--thinking-off", action="store_true")
    p.add_argument("--concurrency", type=int, default=8)
    p.add_argument("--timeout", type=float, default=120)
    p.add_argument("--device")
    p.add_argument("--dtype", default="bfloat16")
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--failures", type=int, default=3, help="of each task that the report shows")
    p.add_argument("--json", help="write the report here; -: on stdout, instead of the table")
    args = p.parse_args()
    try:
        kinds = chosen_kinds(args.kinds, not args.thinking_off)
    except ValueError as error:
        p.exit(2, f"--kinds: {error}\n")
    if bool(args.base_url) == bool(args.local):
        p.error("give either --base-url or --local")
    if args.each < 1:
        p.error("--each: 1 or more")
    asked = tasks.held_out_tasks(SEED, args.each, kinds, not args.thinking_off)
    try:
        report = through_api(args, asked) if args.base_url else locally(args, asked)
    except Failed as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)  # the requests still open are not waited for
    if args.json == "-":
        print(json.dumps(report))
        return
    show(report)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
