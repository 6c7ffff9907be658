"""Draws runs as SVG: python curves.py supervised|grpo RUN.json... OUT.svg   (files of results.py; Python alone)

supervised: loss in the cold start and in the last stage, and the share of tokens that are wrong, a line a run; dots are whole answers, held out.
grpo: a panel a run: held-out greedy answers, all and of the three kinds the cold start had left worst; in grey, new questions of each iteration.
"""
import json
import math
import os
import sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 420, 250, 52, 30, 12, 34
COLOURS = "#4269d0 #e07b00 #3ca951 #c2399e".split()
GREY = "#b5b5b5"


class Panel:
    def __init__(self, title, along, last, low, high, logarithmic=False):
        self.label_top = TOP + 14 if logarithmic else HEIGHT - BOTTOM - 60
        self.last, self.low, self.high, self.logarithmic = last, low, high, logarithmic
        self.out = [f'<text x="{LEFT}" y="18" font-size="13">{title}</text>']
        for i in range(5):
            share = i / 4
            v = round(low * (high / low) ** share if logarithmic else low + (high - low) * share, 6)
            label = f"{v:g}" if logarithmic else f"{100 * v:g}%"
            self.out.append(f'<path d="M{LEFT} {self.y(v):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/><text x="{LEFT - 6}" y="{self.y(v) + 4:.1f}" text-anchor="end">{label}</text>')
            s = last * share
            self.out.append(f'<text x="{self.x(s):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{s:.0f}</text>')
        self.out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{along}</text>')
        self.labels = 0

    def x(self, v):
        return LEFT + (WIDTH - LEFT - RIGHT) * v / self.last

    def y(self, v):
        v = min(max(v, self.low), self.high)
        share = math.log(v / self.low) / math.log(self.high / self.low) if self.logarithmic else (v - self.low) / (self.high - self.low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    def line(self, points, colour, width=1.5, label=None):
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)
        self.out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        if label:
            self.out.append(f'<text x="{WIDTH - RIGHT - 4}" y="{self.label_top + 14 * self.labels}" fill="{colour}" text-anchor="end">{label}</text>')
            self.labels += 1

    def dots(self, points, colour):
        self.out += [f'<circle cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="3.5" fill="{colour}"/>' for a, b in points]


def grid(panels):
    rows = -(-len(panels) // 2)
    moved = "".join(f'<g transform="translate({WIDTH * (i % 2)} {HEIGHT * (i // 2)})">{"".join(p.out)}</g>\n' for i, p in enumerate(panels))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT * rows}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="#fff"/>\n{moved}</svg>\n')


def supervised(runs):
    panels = []
    for stage, title, before, after in (("cold", "Cold start", None, "supervised"), ("last", "Last stage", "grpo", "bf16")):
        last = max(r["step"] for run in runs.values() for r in run[stage])
        loss = Panel(f"{title}: loss of the next token", "step", last, 1e-4, 1, logarithmic=True)
        wrong = Panel(f"{title}: wrong tokens, and (dots) wrong answers, held out", "step", last, 1e-4, 1, logarithmic=True)
        for (name, run), colour in zip(runs.items(), COLOURS):
            rows = [r for r in run[stage] if "loss" in r]
            loss.line([(r["step"], r["loss"]) for r in rows], colour, label=name)
            wrong.line([(r["step"], 1 - r["accuracy"]) for r in rows], colour, label=name)
            wrong.dots([(r["step"], 1 - r["held_out"]) for r in run[stage] if "held_out" in r], colour)
            wrong.dots([(step, 1 - run["reports"][report]["accuracy"]) for step, report in ((0, before), (run[stage + "_steps"], after)) if report], colour)
        panels += [loss, wrong]
    return panels


def hardest(report, n=3):
    return sorted(report["tasks"], key=lambda kind: report["tasks"][kind]["accuracy"])[:n]


def grpo(runs):
    panels = []
    for name, run in runs.items():
        held = [r for r in run["grpo"] if "held_out" in r]
        kinds = hardest(run["reports"]["supervised"])
        low = math.floor(25 * min(r[k] for r in held for k in ["held_out", *kinds])) / 25
        panel = Panel(f"GRPO, {name}, rate {run['grpo_rate']:.0e}", "iteration", held[-1]["iteration"], low, 1)
        panel.line([(r["iteration"], r["right"]) for r in run["grpo"] if "right" in r], GREY, 1, "new questions")
        for kind, colour in zip(kinds, COLOURS):
            panel.line([(r["iteration"], r[kind]) for r in held], colour, label=kind)
        panel.line([(r["iteration"], r["held_out"]) for r in held], "#000", 2.5, "held out, all kinds")
        panels.append(panel)
    return panels


def main():
    what, *sources, target = sys.argv[1:]
    runs = {}
    for source in sources:
        with open(source) as f:
            runs[os.path.basename(source).removesuffix(".json")] = json.load(f)
    with open(target, "w") as f:
        f.write(grid({"supervised": supervised, "grpo": grpo}[what](runs)))


if __name__ == "__main__":
    main()
