"""What a full run (full.sh) wrote, in one small file: python results.py RUN OUT.json

Histories of the stages, and the four reports; failures of the FP8 export alone. `curves.py` draws from these files.
"""
import json
import os
import sys

GRPO_KEYS = ("iteration", "right", "groups", "mixed_groups", "groups_right", "rate")
REPORTS = {"supervised": "sft-bf16.json", "grpo": "grpo.json", "bf16": "out-bf16.json", "fp8": "out-fp8.json"}


def collect(folder):
    def read(*path):
        with open(os.path.join(folder, *path)) as f:
            return json.load(f)

    reports = {name: read(file) for name, file in REPORTS.items()}
    for name, report in reports.items():
        if name != "fp8":
            report.pop("failures", None)
    cold, grpo, last = read("ckpt", "state.json"), read("grpo", "grpo.json"), read("last", "state.json")
    return {"cold_steps": cold["step"], "grpo_rate": max(r.get("rate", 0) for r in grpo), "last_steps": last["step"], "cold": cold["history"],
            "grpo": [r if "held_out" in r else {k: r[k] for k in GRPO_KEYS} for r in grpo], "last": last["history"], "reports": reports}


def write(run, target):
    """One row a line, so that a difference can be read."""
    with open(target, "w") as f:
        f.write("{\n" + ",\n".join(
            f'"{key}": ' + ("[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]" if isinstance(value, list) else
                            "{\n" + ",\n".join(f'"{name}": {json.dumps(v)}' for name, v in value.items()) + "\n}" if key == "reports" else
                            json.dumps(value)) for key, value in run.items()) + "\n}\n")


if __name__ == "__main__":
    folder, target = sys.argv[1:]
    write(collect(folder), target)
