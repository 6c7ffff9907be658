"""Batched generation with a static latent cache: absorbed attention, one CUDA graph per cache length, all sequences in step.

The cache is [layers, batch, length, 576], allocated once. A prompt but for its last token goes through the packed forward, whose
latents are copied in; from the last prompt token on, every step feeds one token of each sequence and writes one row. Keys and
values are never expanded: the key half of kv_b_proj is folded into the query and the value half applied to the attended latent.
"""
import torch
import torch.nn.functional as F

import chat
from model import MoE, rope_angles, rotate


def before_attention(layer, h, cos, sin, dtype):
    """Of one new token per sequence: the query against latents, [batch, heads, 576], and its own latent, [batch, 576]."""
    x, a = layer.input_layernorm(h, dtype), layer.self_attn
    q_nope, q_rope = a.query(x, cos, sin)
    kv = a.kv_b_proj.weight.to(dtype).reshape(a.heads, a.nope + a.value, a.rank)
    folded = torch.einsum("bhn,hnr->bhr", q_nope, kv[:, :a.nope])
    return torch.cat((folded, q_rope), -1), torch.cat(a.latent(x, cos, sin), -1)


def after_attention(layer, h, attended, dtype):
    """The layer's output from the latents it attended to, [batch, heads, 512]."""
    a = layer.self_attn
    kv = a.kv_b_proj.weight.to(dtype).reshape(a.heads, a.nope + a.value, a.rank)
    h = h + a.o_proj(torch.einsum("bhr,hvr->bhv", attended, kv[:, a.nope:]).flatten(1)).float()
    return layer.feed_forward(h, dtype)[0]


class Sampler:
    def __init__(self, config, batch, length, device="cuda", dtype=torch.bfloat16, compiled=False):
        self.c, self.batch, self.length, self.device, self.dtype = config, batch, length, device, dtype
        c = config
        self.cache = torch.zeros(c.num_hidden_layers, batch, length, c.kv_lora_rank + c.qk_rope_head_dim, dtype=dtype, device=device)
        self.token = torch.zeros(batch, dtype=torch.long, device=device)
        self.at = torch.zeros(batch, dtype=torch.long, device=device)       # the position of `token`
        self.done = torch.ones(batch, dtype=torch.bool, device=device)
        self.out = torch.full((batch, length), chat.PAD, dtype=torch.int16, device=device)
        self.step_index = torch.zeros(1, dtype=torch.long, device=device)
        self.temperature = torch.zeros(batch, 1, device=device)
        self.model = None
        self.graphs = {}
        self.before, self.after = before_attention, after_attention
        if compiled:
            self.before, self.after = torch.compile(before_attention, dynamic=False), torch.compile(after_attention, dynamic=False)

    @torch.no_grad()
    def load(self, model):
        """Copies the weights in `dtype`; in place after the first time, so that captured graphs stay valid."""
        if self.model is None:
            self.model = type(model)(self.c).to(self.device)
            for name, p in self.model.named_parameters():
                if not name.endswith("mlp.gate.weight"):  # gates choose in float32
                    p.data = p.data.to(self.dtype)
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values()):
            mine.copy_(theirs)

    @torch.no_grad()
    def prefill(self, prompts, chunk=32768):
        """Fills the cache with all but each prompt's last token."""
        first = 0
        while first < len(prompts):
            last, total = first, 0
            while last < len(prompts) and (last == first or total + len(prompts[last]) - 1 <= chunk):
                total += len(prompts[last]) - 1
                last += 1
            part = [p[:-1] for p in prompts[first:last]]
            ids = torch.tensor([t for p in part for t in p], device=self.device)
            row = torch.tensor([first + i for i, p in enumerate(part) for _ in p], device=self.device)
            position = torch.tensor([j for p in part for j in range(len(p))], device=self.device)
            bounds = torch.tensor([0] + [len(p) for p in part], device=self.device).cumsum(0).to(torch.int32)
            packing = self.model.packing(position, bounds, max(map(len, part)))
            h = self.model.embed_tokens(ids).float()
            for i, layer in enumerate(self.model.layers):
                x, a = layer.input_layernorm(h, self.dtype), layer.self_attn
                latent = a.latent(x, packing.cos, packing.sin)
                self.cache[i, row, position] = torch.cat(latent, -1)
                if i + 1 < len(self.model.layers):
                    h = h + a.attend(a.query(x, packing.cos, packing.sin), latent, packing).float()
                    h, _ = layer.feed_forward(h, self.dtype)
            first = last

    def attend(self, q, cache, mask):
        score = torch.matmul(q, cache.transpose(1, 2)).float() * self.c.qk_head_dim ** -0.5
        p = score.masked_fill(~mask[:, None], float("-inf")).softmax(-1).to(self.dtype)
        return torch.matmul(p, cache[..., :self.c.kv_lora_rank])

    def step(self, window):
        """Feeds `token` at `at`, samples the next one, advances; only the first `window` cache rows are read."""
        m, rows = self.model, torch.arange(self.batch, device=self.device)
        cos, sin = rope_angles(self.at, self.c)
        mask = torch.arange(window, device=self.device)[None] <= self.at[:, None]
        h = m.embed_tokens(self.token).float()
        for i, layer in enumerate(m.layers):
            q, latent = self.before(layer, h, cos, sin, self.dtype)
            self.cache[i].index_put_((rows, self.at), latent)
            h = self.after(layer, h, self.attend(q, self.cache[i, :, :window], mask), self.dtype)
        logits = m.lm_head(m.norm(h, self.dtype)).float()
        # Gumbel noise times the temperature: greedy at zero, exact sampling otherwise, and no branch inside the graph.
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-20, 1 - 1e-7)))
        token = (logits + self.temperature * noise).argmax(-1)
        token = torch.where(self.done, chat.PAD, token)
        self.out.scatter_(1, self.step_index.expand(self.batch)[:, None], token[:, None].to(torch.int16))
        self.done |= token == chat.EOS
        self.token.copy_(token)
        self.at.add_(1).clamp_(max=self.length - 1)
        self.step_index += 1

    def run_step(self, window):
        if self.device == "cpu":
            return self.step(window)
        if window not in self.graphs:
            saved = [t.clone() for t in (self.token, self.at, self.done, self.out, self.step_index)]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.step(window)  # warm up outside the capture
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step(window)
            for t, s in zip((self.token, self.at, self.done, self.out, self.step_index), saved):
                t.copy_(s)
            self.graphs[window] = graph
        self.graphs[window].replay()

    @torch.no_grad()
    def generate(self, prompts, most=576, temperature=0.):
        """The response of each prompt (at most `batch` of them), as token ids, the end of turn included when it came.
        One temperature for all or one for each."""
        n = len(prompts)
        longest = max(map(len, prompts))
        assert n <= self.batch and longest < self.length
        self.prefill(prompts)
        self.temperature[:n, 0] = torch.tensor(temperature, device=self.device)
        self.out.fill_(chat.PAD)
        self.step_index.zero_()
        self.token.zero_()
        self.at.zero_()
        self.done.fill_(True)
        self.token[:n] = torch.tensor([p[-1] for p in prompts], device=self.device)
        self.at[:n] = torch.tensor([len(p) - 1 for p in prompts], device=self.device)
        self.done[:n] = False
        grain = 128 if self.length <= 1024 else 512
        for i in range(min(most, self.length - longest)):
            self.run_step(min(self.length, -(-(longest + i) // grain) * grain))
            if i % 16 == 15 and self.done.all():
                break
        out = self.out[:n, :i + 1].tolist()
        return [row[:row.index(chat.PAD)] if chat.PAD in row else row for row in out]


@torch.no_grad()
def teacher_forced(model, prompts, responses, device, dtype, chunk=32768):
    """On the model's own continuations: how often the MTP layer's greedy token is the one that was said, and the experts' loads."""
    right = total = 0
    loads = None
    pending = list(zip(prompts, responses))
    while pending:
        part, size = [], 0
        while pending and (not part or size + len(pending[-1][0]) + len(pending[-1][1]) <= chunk):
            part.append(pending.pop())
            size += len(part[-1][0]) + len(part[-1][1])
        ids = torch.tensor([t for p, r in part for t in p + r], device=device)
        position = torch.tensor([j for p, r in part for j in range(len(p) + len(r))], device=device)
        said = torch.tensor([int(j >= len(p)) for p, r in part for j in range(len(p) + len(r))], device=device, dtype=torch.bool)
        bounds = torch.tensor([0] + [len(p) + len(r) for p, r in part], device=device).cumsum(0).to(torch.int32)
        _, h2, load = model(ids, position, bounds, max(len(p) + len(r) for p, r in part), dtype)
        guess = model.lm_head(h2).float().argmax(-1)
        # Position i guesses token i + 2; it counts where that token is part of a response.
        right += int(((guess[:-2] == ids[2:]) & said[2:]).sum())
        total += int(said[2:].sum())
        loads = load.float() if loads is None else loads + load.float()
    return right / max(1, total), loads
