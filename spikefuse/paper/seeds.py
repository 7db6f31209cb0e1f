"""Seeds and generators, each for one purpose, all from the one seed of a run."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed in [0, 2^63) for one purpose, unrelated to those for other purposes, indices and seeds.

    >>> derived_seed(0, "order", 1) == derived_seed(1, "order", 0)
    False
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def weight_generator(seed: int) -> torch.Generator:
    """The generator of a run's initial weights.

    >>> torch.rand(2, generator=weight_generator(0)).equal(torch.rand(2, generator=weight_generator(0)))
    True
    """
    return torch.Generator().manual_seed(derived_seed(seed, "weights"))
