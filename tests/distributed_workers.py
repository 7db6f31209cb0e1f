"""Functions that the ranks of tests/test_distributed.py run, at the top of a module that processes can import."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

import conftest
from spikefuse import LIFLinear, OnlineRule, distributed, online, ops
from spikefuse.distributed import checkpoint

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
    alone = distributed.rank_and_size()[1] == 1
    weights = online_problem(sizes, dtype)[0]
    weights = [w.clone() for w in weights] if alone else distributed.shard(weights)
    learned: list[Any] = []
    for batch in range(3):
        _, x, y = online_problem(sizes, dtype, seed=batch)
        stats = (online if alone else distributed).online_batch_(weights, x, y, rule)
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


def learn_online_few() -> list[tuple[Any, ...]]:
    return [learn_online(sizes, torch.float32, rule) for sizes in ONLINE_SIZES[1:3] for rule in ONLINE_RULES[:2]]


def learn_online_emulated() -> list[tuple[Any, ...]]:
    """By the CUDA kernels on their emulator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "online_batch_", conftest.emulated_backend().ops["online_batch_"])
        return learn_online_few()


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
    kind: Any = LIFLinear if distributed.rank_and_size()[1] == 1 else distributed.NeuronParallelLIFLinear
    sizes = (50, 70, 45, 33, 20)
    torch.manual_seed(5)
    layers = [
        (LIFLinear if i == 2 else kind)(n_in, n_out, **layer_settings(case, n_out))
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
    ]
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.002)
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
        results[f"{step} open"] = out.mismatches
        for i, layer in enumerate(layers):
            for name, parameter in layer.named_parameters():
                for kind_of, value in (("value", parameter.detach()), ("grad", parameter.grad)):
                    sliced = i != 2 and value.dim() > 0
                    results[f"{step} {name} {i} {kind_of}"] = whole(value, sizes[i + 1], 0) if sliced else value.clone()
        optimizer.step()
    return results


def whole(own: Tensor, neurons: int, dim: int) -> Tensor:
    """All neurons from each rank's, by a way of its own."""
    parts: list[Any] = [None] * distributed.rank_and_size()[1]
    if len(parts) == 1:
        return own.clone()
    dist.all_gather_object(parts, own)
    assert sum(p.shape[dim] for p in parts) == neurons
    return torch.cat(parts, dim)


def train_layers_all() -> list[dict[str, Tensor]]:
    return [train_layers(case) for case in LAYER_CASES]


class Net(nn.Module):
    """Two layers; a shared learned decay, a bias, and a threshold of each neuron are among the parameters."""

    def __init__(self) -> None:
        super().__init__()
        settings = {"threshold": 0.4, "dtype": torch.float64}
        self.hidden = LIFLinear(50, 33, bias=True, beta=0.9, learn_beta=True, **settings)
        self.output = LIFLinear(
            33, 20, beta=0.9, learn_threshold=True, **{**settings, "threshold": torch.rand(20) + 0.3}
        )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        spikes, _ = self.hidden(x)
        out = self.output.masked_loss(spikes, y)
        return out.loss / x.shape[1], spikes.detach()


def net_problem() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(3)
    net = Net()
    return net, (torch.rand(12, 6, 50) < 0.3).double(), (torch.rand(12, 6, 20) < 0.3).double()


def train_data_parallel(way: str) -> dict[str, Tensor]:
    """Three steps of Adam; gradients and parameters of each."""
    rank, count = distributed.rank_and_size()
    net, x, y = net_problem()
    model: nn.Module = net
    if way == "ddp":
        model = nn.parallel.DistributedDataParallel(net)
    elif way == "fully_shard":
        model = distributed.for_fully_shard(net)
        for layer in (net.hidden, net.output):
            fully_shard(layer)
        register_fsdp_forward_method(net.output, "masked_loss")
        fully_shard(net)
    x, y = x.chunk(count, 1)[rank], y.chunk(count, 1)[rank]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    results: dict[str, Tensor] = {}
    for step in range(3):
        optimizer.zero_grad()
        model(x, y)[0].backward()
        optimizer.step()
        for name, p in net.named_parameters():
            for kind, value in (("grad", p.grad), ("value", p.detach())):
                full = value.full_tensor() if isinstance(value, DTensor) else value
                results[f"{step} {name} {kind}"] = full.clone().reshape(-1)
    return results


def parallel_net() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A trained step in, so that Adam has moments of every parameter, all unlike each other."""
    kind: Any = LIFLinear if distributed.rank_and_size()[1] == 1 else distributed.NeuronParallelLIFLinear
    torch.manual_seed(4)
    beta = torch.linspace(0.7, 0.9, 37)
    net = nn.ModuleList([kind(20, 37, bias=True, beta=beta, learn_beta=True), LIFLinear(37, 5, beta=0.9)])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.002)
    spikes, _ = net[0]((torch.rand(4, 3, 20) < 0.5).float())
    net[1].masked_loss(spikes, torch.ones(4, 3, 5)).loss.backward()
    optimizer.step()
    return net, optimizer


def checkpoint_states() -> list[tuple[str, dict[str, Tensor]]]:
    weights = online_problem((40, 101, 7), torch.float32)[0]
    online_weights = weights if distributed.rank_and_size()[1] == 1 else distributed.shard(weights)
    return [
        ("online", checkpoint.online_state(online_weights)),
        ("module", checkpoint.module_state(*parallel_net())),
    ]


def save_states(folder: str) -> None:
    for name, state in checkpoint_states():
        checkpoint.save(f"{folder}/{name}", 7, state, {"seed": 1})


def load_states(folder: str) -> list[dict[str, Tensor]]:
    """Returns the whole saved tensors, loaded over zeros."""
    loaded = []
    for name, state in checkpoint_states():
        for tensor in state.values():
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).zero_()
        path = checkpoint.latest(f"{folder}/{name}")
        assert path is not None and checkpoint.step_of(path) == 7
        assert checkpoint.load_(path, state) == {"seed": 1}
        loaded.append({k: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for k, t in state.items()})
    return loaded


TRAINING = ((300, 70, 20), OnlineRule(trace="gated", lr=1e-3), 12)
"""Layers, rule and batches of the runs that are interrupted."""


def train_with_checkpoints(folder: str, failure: str = "") -> tuple[str, float, int, list[Tensor]]:
    """Trains from the last complete checkpoint on, saving every 3 batches. Rank 1 fails in the middle of one."""
    sizes, rule, batches = TRAINING
    weights = distributed.shard(online_problem(sizes, torch.float32)[0])
    state, begin = checkpoint.online_state(weights), 0
    if (path := checkpoint.latest(folder)) is not None:
        checkpoint.load_(path, state)
        begin = checkpoint.step_of(path)
    rank, _ = distributed.rank_and_size()
    noticed = Path(f"{folder}.noticed")
    for batch in range(begin, batches):
        _, x, y = online_problem(sizes, torch.float32, seed=batch)
        if failure and rank == 1 and batch == 7:
            fail_soon(failure, noticed)
        started = time.monotonic()
        try:
            distributed.online_batch_(weights, x, y, rule)
            if (batch + 1) % 3 == 0:
                checkpoint.save(folder, batch + 1, state)
        except distributed.PeerError as error:
            seconds = time.monotonic() - started
            noticed.touch()
            return str(error), seconds, begin, weights
    return "", 0.0, begin, distributed.gather(weights)


def fail_soon(failure: str, noticed: Path) -> None:
    """Kills or stops this process in the middle of a batch, or of writing a checkpoint."""
    if failure == "killed while writing":
        FileSystemWriter.write_data = lambda *_: ranks.kill_this_process()  # type: ignore[method-assign,assignment]
        return
    calls, all_gather = itertools.count(), dist.all_gather

    def fail(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 9:
            if failure == "killed":
                ranks.kill_this_process()
            deadline = time.monotonic() + 60
            while not noticed.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            ranks.kill_this_process()
        return all_gather(*arguments, **options)

    dist.all_gather = fail


def refuse_batches() -> list[str]:
    """Batches that one rank cannot begin or that differ between ranks, and then one that is learned."""
    sizes, rule, _ = TRAINING
    rank, _ = distributed.rank_and_size()
    whole_weights, x, y = online_problem(sizes, torch.float32)
    weights = distributed.shard(whole_weights)
    messages = []

    def attempt(weights: list[Tensor], x: Tensor, y: Tensor, rule: OnlineRule) -> None:
        try:
            distributed.online_batch_(weights, x, y, rule)
            messages.append("learned")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")

    broken = [w.clone() for w in weights]
    broken[rank] = broken[rank] * (float("nan") if rank == 1 else 1.0)
    attempt(broken, x, y, rule)
    attempt([weights[0][:-1], weights[1]] if rank == 1 else weights, x, y, rule)
    attempt(weights, x.roll(rank, 1), y, rule)
    attempt([weights[0], weights[1] + 1e-3 * rank], x, y, rule)
    attempt(weights, x, y, OnlineRule(lr=0.1 * (rank + 1)))
    messages.append(str(all(torch.equal(a, b) for a, b in zip(weights, distributed.shard(whole_weights), strict=True))))
    attempt(weights, x, y, rule)
    # one rank's slice alone leaves the numbers: all hear of it
    attempt(weights, x, y, OnlineRule(optimizer="sgd", lr=1e38))
    return messages


def gloo_threads() -> int:
    """Threads of process groups in this process."""
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))


def gloo_threads_left(expected: int = 0) -> int:
    """As many as expected, or those that are there 5 s later: a joined thread takes a moment to leave /proc."""
    deadline = time.monotonic() + 5
    while gloo_threads() != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return gloo_threads()


def threads_left(folder: str) -> dict[str, int]:
    """Threads after the shutdown of groups that were used in several ways. Garbage is collected by shutdown alone."""
    rank, count = distributed.rank_and_size()
    ways: dict[str, Callable[[str], object]] = {
        "an exchange": lambda _: dist.barrier(),
        "a checkpoint": lambda path: (save_states(path), load_states(path)),
        "a checkpoint's state in use": lambda _: checkpoint_states(),
        "ddp": lambda _: train_data_parallel("ddp"),
        "fully_shard": lambda _: train_data_parallel("fully_shard"),
        "a part of the ranks": lambda _: checkpoint.sharded(torch.zeros(2, 3), 4, dist.new_group([0, 1])),
    }
    left = {}
    gc.disable()
    for i, (name, use) in enumerate(ways.items()):
        if i > 0:
            ranks.join(rank, count, f"{folder}/{i}")
        in_use = use(f"{folder}/run")
        assert gloo_threads() > 0
        distributed.shutdown()
        left[name] = gloo_threads_left()
        del in_use
    gc.enable()
    return left


def end_a_part() -> list[int]:
    """Ranks, and threads before, while and after another group than that of all is used; its state stays in use."""
    gc.disable()
    dist.barrier()
    before = gloo_threads()
    part = dist.new_group([0, 1])
    state = checkpoint.sharded(torch.ones(2, 3), 4, part)
    assert isinstance(state, DTensor) and int(state.full_tensor().sum()) == 12
    during = gloo_threads()
    for _ in range(2):  # the second does nothing
        distributed.shutdown(part)
    del part
    dist.barrier()
    gc.enable()
    return [distributed.rank_and_size()[1], before, during, gloo_threads_left(before)]


def end_alone(folder: str) -> tuple[str, float, int]:
    """Rank 0 leaves with an exception and then by :func:`shutdown`, while rank 1 waits in vain and then dies."""
    rank, count = distributed.rank_and_size()
    started = time.monotonic()
    try:
        if rank == 0:
            try:
                raise KeyError("of this rank")
            finally:
                distributed.shutdown()
        checkpoint.save(f"{folder}/run", 1, {"weight": torch.zeros(2)})
    except (KeyError, distributed.PeerError) as error:
        message = f"{type(error).__name__}: {error}"
    distributed.shutdown(wait=False)
    seconds = time.monotonic() - started
    ranks.join(rank, count, f"{folder}/again")
    dist.barrier()
    if rank == 1:
        torch.save((message, seconds), f"{folder}/message")
        ranks.kill_this_process()
    try:
        distributed.shutdown()
    except distributed.PeerError as error:
        message += f", {error}"
    return message, seconds, gloo_threads_left()


def interrupt() -> list[str]:
    """An exception that is no failure of a peer, inside the exchange."""
    sizes, rule, _ = TRAINING
    whole_weights, x, y = online_problem(sizes, torch.float32)
    calls, all_gather = itertools.count(), dist.all_gather
    messages = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 9:
            raise KeyboardInterrupt
        return all_gather(*arguments, **options)

    dist.all_gather = interrupted
    try:
        distributed.online_batch_(distributed.shard(whole_weights), x, y, rule)
    except KeyboardInterrupt:
        messages.append("interrupted")
    dist.all_gather = all_gather
    distributed.online_batch_(distributed.shard(whole_weights), x, y, rule)
    return [*messages, "learned"]
