"""What the ranks of tests/test_distributed.py run: functions at the top of a module, for processes that import them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from spikefuse import LIFLinear, OnlineRule, distributed, online

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
        (torch.rand(o, i, generator=generator, dtype=dtype) - 0.4) * (density * i) ** -0.5
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


LAYER_CASES: list[dict[str, Any]] = [
    {},
    {"dtype": torch.float32},
    {"batch_first": True, "surrogate": "atan"},
    {"learn_beta": True, "learn_threshold": True, "reset": "subtract", "detach_reset": False},
    {"learn_beta": True, "learn_threshold": True, "per_neuron": True},
]


def layer_settings(case: dict[str, Any], neurons: int) -> dict[str, Any]:
    settings = {"dtype": torch.float64, "bias": True, **case}
    if settings.pop("per_neuron", False):
        settings["beta"] = torch.linspace(0.7, 0.95, neurons, dtype=torch.float64)
        settings["threshold"] = torch.linspace(0.3, 0.5, neurons, dtype=torch.float64)
        return settings
    return {"beta": 0.9, "threshold": 0.4, **settings}


def train_layers(case: dict[str, Any]) -> dict[str, Tensor]:
    """Two steps of SGD through two parallel layers, one that all ranks compute, and a parallel output layer."""
    kind: Any = LIFLinear if distributed.place()[1] == 1 else distributed.NeuronParallelLIFLinear
    sizes = (50, 70, 45, 33, 20)
    torch.manual_seed(5)
    layers = [
        (LIFLinear if i == 2 else kind)(n_in, n_out, **layer_settings(case, n_out))
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
    ]
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.01)
    dtype = layers[0].weight.dtype
    generator = torch.Generator().manual_seed(1)
    shape = (6, 12) if case.get("batch_first") else (12, 6)
    x = (torch.rand(*shape, sizes[0], generator=generator) < 0.3).to(dtype).requires_grad_()
    y = (torch.rand(*shape, sizes[-1], generator=generator) < 0.3).to(dtype)
    results: dict[str, Tensor] = {}
    for step in range(2):
        optimizer.zero_grad()
        x.grad = None
        h = x
        for i, layer in enumerate(layers[:-1]):
            h, _, v = layer(h, return_vmem=True)
            results[f"{step} spikes {i}"] = h.detach()
            results[f"{step} v {i}"] = whole(v.detach(), sizes[i + 1], -1) if i < 2 else v.detach()
        out = layers[-1].masked_loss(h, y)
        out.loss.backward()
        assert x.grad is not None
        results[f"{step} input grad"] = x.grad.clone()
        results[f"{step} loss"], results[f"{step} output"] = out.loss.detach(), out.spikes
        results[f"{step} open"] = out.open_errors
        for i, layer in enumerate(layers):
            for name, parameter in layer.named_parameters():
                for kind_of, value in (("value", parameter.detach()), ("grad", parameter.grad)):
                    sliced = i != 2 and value.dim() > 0
                    results[f"{step} {name} {i} {kind_of}"] = whole(value, sizes[i + 1], 0) if sliced else value.clone()
        optimizer.step()
    return results


def whole(own: Tensor, neurons: int, dim: int) -> Tensor:
    """All neurons from each rank's, by a way of its own."""
    parts: list[Any] = [None] * distributed.place()[1]
    if len(parts) == 1:
        return own.clone()
    dist.all_gather_object(parts, own)
    assert sum(p.shape[dim] for p in parts) == neurons
    return torch.cat(parts, dim)


def train_layers_all() -> list[dict[str, Tensor]]:
    return [train_layers(case) for case in LAYER_CASES]
