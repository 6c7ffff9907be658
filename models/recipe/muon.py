"""Muon (orthogonalised momentum) for the matrices, AdamW for embeddings, head, norms and gates."""
import collections

import torch


def is_matrix(name, p):
    return p.ndim >= 2 and "embed_tokens" not in name and "lm_head" not in name and "mlp.gate.weight" not in name


def orthogonalise(g):
    """Newton-Schulz iteration towards the nearest orthogonal matrix, for a stack of matrices."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if tall else x


class Optimizer:
    def __init__(self, model, muon_rate, adam_rate, decay=.02, fused=True):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.muon_rate, self.adam_rate, self.decay = muon_rate, adam_rate, decay
        self.groups = collections.defaultdict(list)
        for n, p in named:
            if is_matrix(n, p):
                self.groups[tuple(p.shape)].append(p)
        self.momentum = {s: [torch.zeros_like(p) for p in ps] for s, ps in self.groups.items()}
        small = [p for n, p in named if not is_matrix(n, p)]
        self.adam = torch.optim.AdamW(small, lr=adam_rate, betas=(.9, .95), weight_decay=0., fused=fused and small[0].is_cuda)

    @torch.no_grad()
    def step(self, scale):
        for g in self.adam.param_groups:
            g["lr"] = self.adam_rate * scale
        self.adam.step()
        rate = self.muon_rate * scale
        for shape, ps in self.groups.items():
            gs, ms = [p.grad for p in ps], self.momentum[shape]
            torch._foreach_lerp_(ms, gs, .05)
            mixed = torch._foreach_lerp(gs, ms, .95)  # Nesterov
            update = orthogonalise(torch.stack(mixed).reshape(-1, *shape[-2:])).reshape(len(ps), *shape).float()
            torch._foreach_mul_(ps, 1 - rate * self.decay)
            torch._foreach_add_(ps, list(update.unbind(0)), alpha=-rate * max(1, shape[-2] / shape[-1]) ** .5)

    def zero_grad(self):
        for ps in self.groups.values():
            for p in ps:
                p.grad = None
        self.adam.zero_grad(set_to_none=True)
