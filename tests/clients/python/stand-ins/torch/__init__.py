"""Stands in for PyTorch, of which guidellm takes the data loader, in one process: the real one is 5 GB with the CUDA libraries it needs."""

from . import utils  # noqa: F401


class Generator:
    def manual_seed(self, seed):
        return self
