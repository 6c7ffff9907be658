"""Draws the curves of a run as an SVG: python curves.py state.json|grpo.json OUT.svg

Held-out accuracy over all tasks in black, each task in a thin line of its own; rows of the history without `held_out` are skipped.
"""
import json
import sys

WIDTH, HEIGHT, LEFT, TOP, LEGEND = 640, 320, 48, 28, 110
COLOURS = "#4269d0 #efb118 #ff725c #6cc5b0 #3ca951 #ff8ab7 #a463f2 #97bbf5 #9c6b4e #9498a0 #1b9e77 #d95f02 #7570b3 #66a61e".split()


def draw(rows, along, title):
    names = ["held_out"] + [k for k in rows[0] if k not in (along, "held_out", "mtp", "load", "thinking")]
    last = max(r[along] for r in rows) or 1
    low = min(.9, min(r[n] for r in rows for n in names))

    def x(v):
        return LEFT + (WIDTH - LEFT) * v / last

    def y(v):
        return TOP + (HEIGHT - TOP) * (1 - (v - low) / (1 - low))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEGEND} {HEIGHT + 40}" font-family="sans-serif" font-size="11">',
           f'<rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="16" font-size="13">{title}</text>']
    for i in range(6):
        v = low + (1 - low) * i / 5
        out.append(f'<path d="M{LEFT} {y(v):.1f}H{WIDTH}" stroke="#ddd"/><text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{100 * v:.0f}%</text>')
        s = last * i / 5
        out.append(f'<text x="{x(s):.1f}" y="{HEIGHT + 16}" text-anchor="middle">{s:.0f}</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT + 34}" text-anchor="middle">{along}</text>')
    for i, n in reversed(list(enumerate(names))):
        colour, width = ("#000", 2.5) if i == 0 else (COLOURS[(i - 1) % len(COLOURS)], 1.2)
        points = " ".join(f"{x(r[along]):.1f},{y(r[n]):.1f}" for r in rows)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        out.append(f'<text x="{WIDTH + 12}" y="{TOP + 6 + 18 * i}" fill="{colour}">{n.replace("_", " ")}</text>')
    return "\n".join(out + ["</svg>\n"])


def main():
    source, target = sys.argv[1:]
    with open(source) as f:
        history = json.load(f)
    along = "iteration" if isinstance(history, list) else "step"
    rows = [r for r in (history if isinstance(history, list) else history["history"]) if "held_out" in r]
    if any(r.get("thinking") == "off" for r in rows):
        rows = [r for r in rows if r["thinking"] == "off"]  # what the run was for
    with open(target, "w") as f:
        f.write(draw(rows, along, "Held-out accuracy, greedy"))


if __name__ == "__main__":
    main()
