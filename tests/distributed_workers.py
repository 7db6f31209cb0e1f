"""What the ranks of tests/test_distributed.py run: functions at the top of a module, for processes that import them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from spikefuse import OnlineRule, distributed, online

ONLINE_SIZES = [(3000, 100, 20), (50, 37, 21, 18), (40, 193, 7), (130, 64, 40)]
ONLINE_RULES = [
    OnlineRule(trace="shared", lr=1e-3),
    OnlineRule(trace="gated", lr=1e-3),
    OnlineRule(trace="gated", lr=1e-3, weight_decay=0.3, weight_decay_mode="l2"),
    OnlineRule(trace="shared", optimizer="sgd", lr=0.1, weight_decay=0.3),
]


def online_problem(
    sizes: tuple[int, ...], dtype: torch.dtype, seed: int = 0, steps: int = 20, samples: int = 9
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights that let all layers spike, sparse inputs where there are many, and targets."""
    generator = torch.Generator().manual_seed(seed)
    density = min(0.4, 20 / sizes[0])
    weights = [
        (torch.rand(o, i, generator=generator, dtype=dtype) - 0.3) * (density * i) ** -0.5 * 1.5
        for i, o in itertools.pairwise(sizes)
    ]
    inputs = (torch.rand(steps, samples, sizes[0], generator=generator) < density).float()
    targets = (torch.rand(steps, samples, sizes[-1], generator=generator) < 0.3).float()
    return weights, inputs, targets


def learn_online(sizes: tuple[int, ...], dtype: torch.dtype, rule: OnlineRule) -> tuple[Any, ...]:
    """Three batches, alone or as one rank of several."""
    alone = distributed.place()[1] == 1
    weights = online_problem(sizes, dtype)[0]
    weights = [w.clone() for w in weights] if alone else distributed.shard(weights)
    learned: list[Any] = []
    for batch in range(3):
        _, x, y = online_problem(sizes, dtype, seed=batch)
        stats = (online if alone else distributed).online_step_(weights, x, y, rule)
        learned += [stats.loss, stats.error_zeros, *stats.spike_counts]
    held = (online if alone else distributed).forward(weights, x, rule)
    whole = weights if alone else distributed.gather(weights)
    return (*learned, *(spikes.words for spikes in held), *whole)


def learn_online_all() -> list[tuple[Any, ...]]:
    return [
        learn_online(sizes, dtype, rule)
        for sizes in ONLINE_SIZES
        for dtype in (torch.float32, torch.float64)
        for rule in ONLINE_RULES
    ]
