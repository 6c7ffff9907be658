# Prints held-out texts of models/recipe by kind, for record.mjs.
import json
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "models" / "recipe"))
import tasks

texts = {}
for kind in tasks.KINDS:
    texts[kind] = ["\n".join([*(m["content"] for m in task.messages), task.thought, task.answer]) for task in tasks.held_out_tasks(5, 60, kinds=[kind])]
json.dump(texts, sys.stdout)
