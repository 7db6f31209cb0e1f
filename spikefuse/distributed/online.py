"""Online learning with the first layer's neurons spread over ranks (:mod:`spikefuse.online` has the rule).

Each rank updates its slice of the first layer. At each time step the ranks exchange that layer's spikes, 1 bit a
neuron and sample, and nothing else; the later, smaller layers are computed by all of them, alike. No sum of floats is
split between ranks, so weights, loss and spikes are those of a single process, bit for bit.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import zlib
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spikefuse import online
from spikefuse.distributed.ranks import (
    Group,
    PeerError,
    all_gather,
    gather_spikes,
    neuron_slice,
    own_slice,
    peer_error,
    rank_and_size,
)
from spikefuse.online import OnlineRule, OnlineStats
from spikefuse.packed import PackedSpikes, words_for


def shard(weights: Sequence[Tensor], group: Group = None) -> list[Tensor]:
    """This rank's copy of a network for online learning: its slice of the first layer, and all of the others.

    Args:
        weights: whole, ``[out, in]`` for each layer, the same on all ranks.
        group: the ranks.

    Returns:
        New tensors, stored input-major, with strides (1, out).

    Raises:
        ValueError: the first layer has too few neurons for that many ranks.

    Example:
        >>> [w.shape for w in shard([torch.rand(4, 8), torch.rand(8, 4)])]
        [torch.Size([4, 8]), torch.Size([8, 4])]
    """
    first, *others = (w.detach() for w in weights)
    return [
        w.t().clone(memory_format=torch.contiguous_format).t() for w in (first[own_slice(len(first), group)], *others)
    ]


def gather(weights: Sequence[Tensor], group: Group = None) -> list[Tensor]:
    """The whole network from each rank's :func:`shard`, on every rank.

    Args:
        weights: as :func:`shard` gave them, at least two layers.
        group: the ranks.

    Raises:
        PeerError: another rank is lost.

    Example:
        >>> weights = [torch.rand(4, 8), torch.rand(8, 4)]
        >>> all(torch.equal(a, b) for a, b in zip(gather(shard(weights)), weights))
        True
    """
    first, *others = (w.detach() for w in weights)
    ranks = rank_and_size(group)[1]
    neurons = others[0].shape[1] if others else len(first)
    slices = [neuron_slice(neurons, r, ranks) for r in range(ranks)]
    padded = nn.functional.pad(first.t(), (0, slices[0].stop - len(first)))
    parts = all_gather(padded, group, "gathering a layer's weights")
    whole = torch.cat([part[:, : s.stop - s.start] for part, s in zip(parts, slices, strict=True)], 1)
    return [whole.t(), *(w.clone() for w in others)]


def online_batch_(
    weights: Sequence[Tensor],
    inputs: PackedSpikes | Tensor,
    targets: PackedSpikes | Tensor,
    rule: OnlineRule,
    group: Group = None,
) -> OnlineStats:
    """:func:`spikefuse.online.online_batch_` by all ranks of a group together, each with its :func:`shard`.

    Args:
        weights: as :func:`shard` gave them, at least two layers; updated in place.
        inputs: spikes ``[T, B, in]``, packed or dense, the same on all ranks.
        targets: spikes ``[T, B, out]`` for the last layer, the same on all ranks.
        rule: the settings, the same on all ranks.
        group: the ranks.

    Returns:
        The same on all ranks, spike counts of whole layers.

    Raises:
        TypeError, ValueError: as :func:`spikefuse.online.online_batch_`; also inputs, targets, rules or later layers
            that differ between ranks. Nothing has been changed then.
        PeerError: another rank refused its batch, which changes nothing either, or is lost, which leaves the weights
            half trained.
        FloatingPointError: the update left weights that are not finite, here or on another rank.

    Example:
        >>> weights = shard([torch.rand(40, 8) - 0.3, torch.rand(8, 40) - 0.3])
        >>> spikes = (torch.rand(15, 2, 8) < 0.5).float()
        >>> online_batch_(weights, spikes, spikes, OnlineRule()).steps
        15
    """
    rank, ranks = rank_and_size(group)
    if ranks == 1:
        return online.online_batch_(weights, inputs, targets, rule)
    batch, refused = None, None
    try:
        neurons = _all_neurons(weights, group)
        batch = online.check_batch(weights, inputs, targets, neurons)
    except (TypeError, ValueError, NotImplementedError) as error:
        refused = error
    _agree_to_learn(batch, weights, rule, refused, group)
    assert batch is not None

    device, samples = batch[0].device, batch[0].shape[1]
    gathered = torch.zeros(ranks, words_for(neuron_slice(neurons, 0, ranks).stop), samples, dtype=torch.int32).to(
        device
    )
    own, parts = torch.empty_like(gathered[rank]), list(gathered.unbind())
    failures: list[BaseException] = []

    # An exception must not pass through C: it is kept, and raised when the op has returned.
    def exchange(step: int) -> int:
        try:
            own.copy_(gathered[rank])
            dist.all_gather(parts, own, group=group)
        except BaseException as error:
            failures.append(error)
            return 0
        return 1

    callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)(exchange)
    address = ctypes.cast(callback, ctypes.c_void_p).value or 0
    stats, diverged = None, None
    try:
        stats = online.learn(weights, *batch, rule, online.Exchange(gathered, address, rank))
    except FloatingPointError as error:
        diverged = error
    except RuntimeError as error:
        if not failures:
            raise
        if not isinstance(failures[0], RuntimeError):
            raise failures[0] from error
        raise peer_error("exchanging spikes in the middle of a batch", group, failures[0]) from failures[0]
    flags = _exchange_numbers([diverged is not None], group)
    if diverged is None and any(flag for (flag,) in flags):
        diverged = FloatingPointError(
            f"online_batch_: the weights became NaN or infinite at lr = {rule.lr} on ranks "
            f"{', '.join(str(r) for r, (flag,) in enumerate(flags) if flag)}"
        )
    if diverged is not None or stats is None:
        raise diverged or RuntimeError("online_batch_: no result")
    return stats


def forward(
    weights: Sequence[Tensor], inputs: PackedSpikes | Tensor, rule: OnlineRule, group: Group = None
) -> list[PackedSpikes]:
    """Spikes of every layer with the weights held, ``[T, B, n]`` each, of whole layers and the same on all ranks.

    Args:
        weights, inputs, rule, group: as in :func:`online_batch_`.

    Raises:
        TypeError, ValueError: as :func:`spikefuse.online.forward`.
        PeerError: another rank is lost.

    Example:
        >>> forward(shard([torch.eye(3), torch.eye(3)]), torch.ones(2, 1, 3), OnlineRule())[1]
        PackedSpikes(shape=(2, 1, 3), device=cpu)
    """
    neurons = _all_neurons(weights, group)
    (own,) = online.forward(weights[:1], inputs, rule)
    first = gather_spikes(own, neurons, group)
    return [first, *online.forward(weights[1:], first, rule)]


def _all_neurons(weights: Sequence[Tensor], group: Group) -> int:
    """Neurons of the first layer over all ranks, when this rank has its slice of them."""
    matrices = not isinstance(weights, Tensor) and all(isinstance(w, Tensor) and w.dim() == 2 for w in weights)
    if not matrices or len(weights) < 2:
        raise ValueError("online_batch_: expected weights of at least two layers, one matrix each, as shard gives them")
    neurons = weights[1].shape[1]
    own = own_slice(neurons, group)
    if len(weights[0]) != own.stop - own.start:
        raise ValueError(
            f"online_batch_: expected weights[0] of {own.stop - own.start} neurons, this rank's of {neurons}, got "
            f"{len(weights[0])}"
        )
    return neurons


def _agree_to_learn(
    batch: tuple[PackedSpikes, PackedSpikes] | None,
    weights: Sequence[Tensor],
    rule: OnlineRule,
    refused: Exception | None,
    group: Group,
) -> None:
    """Raises on all ranks where one of them cannot begin, or where they would not compute the same.

    A rank that raised alone would leave the others waiting for it until their timeout.
    """
    names = ("inputs", "targets", "later weights", "rule")
    numbers = [0] * len(names)
    if batch is not None:
        settings = json.dumps(dataclasses.asdict(rule)).encode()
        numbers = [*map(_fingerprint, (batch[0].words, batch[1].words)), 0, zlib.crc32(settings)]
        numbers[2] = zlib.crc32(repr([_fingerprint(w) for w in weights[1:]]).encode())
    answers = _exchange_numbers([refused is not None, *numbers], group)
    if refused is not None:
        raise refused
    for other, (other_refused, *others) in enumerate(answers):
        if other_refused:
            raise PeerError(f"rank {rank_and_size(group)[0]}: rank {other} refused its batch; its error says why")
        differ = [name for name, a, b in zip(names, numbers, others, strict=True) if a != b]
        if differ:
            raise ValueError(
                f"online_batch_: expected the same {' and '.join(differ)} on all ranks, rank {other} differs"
            )


def _fingerprint(x: Tensor) -> int:
    """A number that two different tensors hardly share, at the speed of memory; it depends on shape and order."""
    rows = x.detach().contiguous().view(torch.int32).flatten(0, -2).sum(1, dtype=torch.int64)
    total = (rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum()  # wraps around, the same everywhere
    return zlib.crc32(f"{list(x.shape)} {x.dtype} {int(total)}".encode())


def _exchange_numbers(numbers: Sequence[int], group: Group) -> list[list[int]]:
    """Each rank's numbers, on all ranks."""
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    own = torch.tensor(numbers, dtype=torch.int64, device=device)
    return [part.tolist() for part in all_gather(own, group, "agreeing on a batch")]
