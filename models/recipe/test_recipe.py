"""Checks that need no accelerator, but PyTorch: python -m unittest test_recipe   (about a minute; the transformers check is skipped without it)"""
import http.server
import json
import os
import random
import tempfile
import threading
import types
import unittest

import torch

import chat
import data
import evaluate
import export
import grpo
import tasks
from model import Model, load_config
from sampler import Sampler, teacher_forced


def tiny_config():
    config = vars(load_config())
    config.update(hidden_size=64, intermediate_size=96, moe_intermediate_size=16, n_routed_experts=8, num_experts_per_tok=2, num_hidden_layers=3,
                  kv_lora_rank=64, q_lora_rank=32, num_attention_heads=2, num_key_value_heads=2)
    return types.SimpleNamespace(**config)


def tiny_model(seed=0):
    torch.manual_seed(seed)
    model = Model(tiny_config())
    for name, p in model.named_parameters():  # large enough that positions, gates and experts matter
        if p.ndim >= 2:
            torch.nn.init.normal_(p, 0, .3 if "experts" in name else .15)
    for layer in model.moe_layers():
        torch.nn.init.normal_(layer.mlp.gate.e_score_correction_bias, 0, .1)
    return model


def forward(model, documents):
    ids = torch.tensor([t for d in documents for t in d])
    position = torch.tensor([i for d in documents for i in range(len(d))])
    bounds = torch.tensor([0] + [len(d) for d in documents]).cumsum(0).to(torch.int32)
    with torch.no_grad():
        return model(ids, position, bounds, max(map(len, documents)), torch.float32)


class Tasks(unittest.TestCase):
    def test_responses_pass_their_own_check_and_fit(self):
        rng = random.Random(6)
        for kind in tasks.KINDS:
            for _ in range(100):
                task = tasks.make(rng, kind)
                response = chat.response_ids(task)
                self.assertLess(len(response), 560, kind)
                self.assertLess(len(task.question.encode()), 4100)
                self.assertTrue(chat.well_formed(response), kind)
                self.assertTrue(tasks.check(task, chat.split_response(response)[1]), kind)
                self.assertFalse(tasks.check(task, "no"))

    def test_training_never_sees_held_out_questions(self):
        rng = random.Random(7)
        for _ in range(2000):
            task = tasks.training_task(rng)
            self.assertTrue(task.kind == "chat" or not tasks.held_out(task.question))
        for task in tasks.held_out_tasks(1, 5):
            self.assertTrue(task.kind == "chat" or tasks.held_out(task.question))

    def test_batches_are_reproducible(self):
        a, b = (data.training_batch(3, 4, 8192, even) for even in (9, 9))
        for x, y in zip(a, b):
            self.assertTrue((x == y).all())


class Evaluation(unittest.TestCase):
    def test_through_an_api(self):
        asked = tasks.held_out_tasks(1, 2, ["add", "json", "sort"])
        answers = {json.dumps(t.messages): t.answer for t in asked}
        wrong = asked[0]

        class Server(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = json.dumps(body["messages"])
                content = "no" if key == json.dumps(wrong.messages) else answers[key]
                out = json.dumps({"choices": [{"message": {"reasoning_content": "1+1\n", "content": content}}]}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        args = types.SimpleNamespace(base_url=f"http://127.0.0.1:{server.server_port}/v1", model="m", key="k", timeout=5, concurrency=2, failures=3)
        report = evaluate.through_api(args, asked)
        server.shutdown()
        server.server_close()
        self.assertEqual(sum(k["right"] for k in report["tasks"].values()), 5)
        self.assertEqual(report["failures"][0]["got"], "no")
        self.assertEqual(report["failures"][0]["step"], wrong.thought.split("\n")[0])
        self.assertEqual(report["failures"][0]["written"], "1+1")


class Architecture(unittest.TestCase):
    def test_documents_do_not_see_each_other(self):
        model = tiny_model()
        a, b = list(range(40)), list(range(100, 170))
        together, alone = forward(model, [a, b])[0], forward(model, [b])[0]
        torch.testing.assert_close(together[40:], alone)

    def test_sampler_matches_the_packed_forward(self):
        model = tiny_model()
        prompts = [chat.prompt_ids(tasks.make(random.Random(s), k).messages) for s, k in enumerate(["add", "sort", "count"])]
        sampler = Sampler(model.c, 4, 256, "cpu", torch.float32)
        sampler.load(model)
        for prompt, response in zip(prompts, sampler.generate(prompts, 40)):
            h = forward(model, [prompt + response])[0]
            greedy = model.lm_head(h).argmax(-1)[len(prompt) - 1:-1].tolist()
            self.assertEqual(greedy, response)

    def test_grouping_by_length_keeps_each_answer_with_its_question(self):
        model, rng = tiny_model(), random.Random(3)
        chosen = grpo.questions(rng, {"cmp": .5, "word": .1, "chat": 0.}, 5, 0.)
        sampler = Sampler(model.c, 2, grpo.LENGTH, "cpu", torch.float32)
        sampler.load(model)
        for (task, prompt), said in zip(chosen, grpo.answers(sampler, chosen, [0.] * 5)):
            self.assertFalse(tasks.held_out(task.question))
            self.assertEqual(said[:12], sampler.generate([prompt], 12)[0])

    def test_each_answer_has_its_own_temperature(self):
        model = tiny_model()
        prompts = [chat.prompt_ids(tasks.make(random.Random(s), "sort").messages) for s in range(3)]
        sampler = Sampler(model.c, 4, 320, "cpu", torch.float32)
        sampler.load(model)
        greedy = sampler.generate(prompts, 12)
        torch.manual_seed(1)
        mixed = sampler.generate(prompts, 12, [0., 50., 0.])
        self.assertEqual((mixed[0], mixed[2]), (greedy[0], greedy[2]))
        self.assertNotEqual(mixed[1], greedy[1])

    def test_balancing_evens_the_load_on_all_kinds(self):
        model = tiny_model()

        def worst(seed):
            loads = model(*grpo.even_row(random.Random(seed), 1536, "cpu")[:3], grpo.LENGTH, torch.float32)[2].float()
            return float((loads.amax(1) / loads.mean(1)).max()), loads

        with torch.no_grad():
            before = worst(0)[0]
            for seed in range(1, 16):
                grpo.balance(model, worst(seed)[1], 3e-2)
            self.assertLess(worst(0)[0], before * .8)

    def test_reinforcement_resumes_with_the_same_weights_and_moments(self):
        def step(model, optimizer):
            optimizer.zero_grad()
            sum(p.square().sum() for n, p in model.named_parameters() if "lm_head" not in n).backward()  # as when a parameter had no gradient yet
            optimizer.step()

        model, other = tiny_model(), tiny_model(1)
        one, two = (torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (model, other))
        step(model, one)
        with tempfile.TemporaryDirectory() as folder:
            grpo.save_state(folder, model, one, {"iteration": 7, "waiting": [(tasks.make(random.Random(1), "add"), [1], 1)]})
            state = grpo.load_state(folder, other, two, "cpu")
        self.assertEqual((state["iteration"], state["waiting"][0][0].kind), (7, "add"))
        step(model, one)
        step(other, two)
        for (name, want), got in zip(model.state_dict().items(), other.state_dict().values()):
            torch.testing.assert_close(got, want, rtol=0, atol=0, msg=name)

    def test_mtp_rate_and_loads_count_every_token(self):
        model = tiny_model()
        prompt = list(range(60, 90))
        rate, loads = teacher_forced(model, [prompt], [list(range(50))], "cpu", torch.float32)
        self.assertTrue(0 <= rate <= 1)
        self.assertEqual(loads.shape, (3, 8))
        self.assertEqual(int(loads[0].sum()), 80 * 2)

    def test_transformers_computes_the_same(self):
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            self.skipTest("transformers is not installed")
        model = tiny_model()
        with tempfile.TemporaryDirectory() as folder:
            export.write_folder(folder, model, fp8=False)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            mine = export.load_model(folder)  # after rounding to BF16, as they have it
            ids = list(torch.randint(0, 256, (70,)))
            with torch.no_grad():
                want = theirs(torch.tensor([ids])).logits[0]
            got = mine.lm_head(forward(mine, [ids])[0])
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            for messages in (tasks.make(random.Random(1), "followup").messages, tasks.make(random.Random(2), "json").messages):
                for thinking in (True, False):
                    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, thinking=thinking, return_dict=False)
                    self.assertEqual(ids, chat.prompt_ids(messages, thinking))


class Export(unittest.TestCase):
    def test_round_trips(self):
        model = tiny_model()
        with tempfile.TemporaryDirectory() as folder:
            export.write_folder(folder, model, fp8=False)
            for name, t in export.load_model(folder).state_dict().items():
                want = model.state_dict()[name]
                torch.testing.assert_close(t, want if "bias" in name else want.to(torch.bfloat16).float(), rtol=0, atol=0)
            export.write_folder(folder, model, fp8=True)
            for name, t in export.load_model(folder).state_dict().items():
                want = model.state_dict()[name]
                self.assertLess(float((t - want).norm() / want.norm()), .04, name)
            with open(os.path.join(folder, "model.safetensors.index.json")) as f:
                names = json.load(f)["weight_map"]
            self.assertIn("model.layers.3.mlp.experts.7.down_proj.weight_scale_inv", names)
            self.assertIn("model.layers.3.shared_head.norm.weight", names)
            self.assertNotIn("model.layers.3.eh_proj.weight_scale_inv", names)

    def test_ragged_blocks(self):
        w = torch.randn(576, 200)
        q, scale = export.quantise(w)
        self.assertEqual((tuple(q.shape), tuple(scale.shape)), ((576, 200), (5, 2)))
        self.assertLess(float((export.dequantise(q, scale) - w).abs().max()), float(w.abs().max()) / 16)


if __name__ == "__main__":
    unittest.main()
