"""Slices of neurons by rank, and the exchanges between ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spikefuse.functional.differentiation import first_derivative_only
from spikefuse.packed import PackedSpikes, words_for

Group = dist.ProcessGroup | None
"""The ranks that share a layer; None for all of them."""


class PeerError(RuntimeError):
    """Another rank died, refused its batch, or did not answer within the process group's timeout.

    Weights may be half trained then: go on from the last complete checkpoint, in a new process group.

    >>> issubclass(PeerError, RuntimeError)
    True
    """


def rank_and_size(group: Group = None) -> tuple[int, int]:
    """This process's rank and the number of ranks.

    >>> rank_and_size()
    (0, 1)
    """
    if group is None and not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def neuron_slice(neurons: int, rank: int, ranks: int) -> slice:
    """The neurons that a rank holds.

    Raises:
        ValueError: a rank would hold none; the message says how many ranks may share the layer.

    >>> [neuron_slice(196, rank, 3) for rank in range(3)]
    [slice(0, 66, None), slice(66, 132, None), slice(132, 196, None)]
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"neuron_slice: expected 0 <= rank < {ranks}, got {rank}")
    size = -(-neurons // ranks)
    if (ranks - 1) * size >= neurons:
        raise ValueError(
            f"neuron_slice: expected a layer with neurons for each of {ranks} ranks at {size} a rank, got {neurons}: "
            f"{-(-neurons // max(size, 1))} ranks hold all of them"
        )
    return slice(rank * size, min((rank + 1) * size, neurons))


def own_slice(neurons: int, group: Group) -> slice:
    """This process's :func:`neuron_slice`.

    >>> own_slice(196, None)
    slice(0, 196, None)
    """
    return neuron_slice(neurons, *rank_and_size(group))


@contextlib.contextmanager
def peer_errors(what: str, group: Group) -> Iterator[None]:
    """Says which exchange it was that failed because of another rank."""
    try:
        yield
    except RuntimeError as error:
        raise peer_error(what, group, error) from error


def peer_error(what: str, group: Group, error: BaseException) -> PeerError:
    """Says in which exchange another rank was lost."""
    rank, ranks = rank_and_size(group)
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return PeerError(
        f"rank {rank} of {ranks}: {what} failed, because another rank died or did not answer within the process "
        f"group's timeout; go on from the last complete checkpoint ({reason})"
    )


def all_gather(own: Tensor, group: Group, what: str) -> list[Tensor]:
    """The tensors of all ranks, which are of one shape, in the order of ranks."""
    if rank_and_size(group)[1] == 1:
        return [own]
    own = own.contiguous()
    parts = [torch.empty_like(own) for _ in range(rank_and_size(group)[1])]
    with peer_errors(what, group):
        dist.all_gather(parts, own, group=group)
    return parts


def all_reduce(x: Tensor, group: Group, what: str) -> Tensor:
    """The sum over ranks, a new tensor."""
    total = x.contiguous().clone()
    if rank_and_size(group)[1] > 1:
        with peer_errors(what, group):
            dist.all_reduce(total, group=group)
    return total


def gather_spikes(own: PackedSpikes, neurons: int, group: Group = None) -> PackedSpikes:
    """A layer's spikes ``[..., neurons]`` from each rank's own ``[..., own neurons]``; sends bits.

    Args:
        own: spikes of this rank's neurons.
        neurons: of the whole layer.
        group: the ranks.

    Raises:
        ValueError: ``own`` has another number of neurons than :func:`neuron_slice` gives this rank.
        PeerError: another rank is lost.

    Example:
        >>> gather_spikes(PackedSpikes.pack(torch.eye(3)), 3).shape
        torch.Size([3, 3])
    """
    rank, ranks = rank_and_size(group)
    slices = [neuron_slice(neurons, r, ranks) for r in range(ranks)]
    sizes = [s.stop - s.start for s in slices]
    if own.num_neurons != sizes[rank]:
        raise ValueError(f"gather_spikes: expected {sizes[rank]} of {neurons} neurons, got {own.num_neurons}")
    if ranks == 1:
        return own
    widest = words_for(sizes[0])
    padded = nn.functional.pad(own.words, (0, widest - own.words.shape[-1]))
    parts = all_gather(padded, group, "gathering a layer's spikes")
    if all(s.start % 32 == 0 for s in slices):
        return PackedSpikes._trusted(torch.cat(parts, -1)[..., : words_for(neurons)], neurons)
    dense = [
        PackedSpikes._trusted(part[..., : words_for(size)].contiguous(), size).unpack(torch.bool)
        for part, size in zip(parts, sizes, strict=True)
    ]
    return PackedSpikes.pack(torch.cat(dense, -1))


class _GatherSpikes(torch.autograd.Function):
    """All neurons' spikes from this rank's; what is above computes the same on all ranks, so the gradient is whole."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, neurons: int, group: Group) -> Tensor:
        ctx.own = own_slice(neurons, group)
        return gather_spikes(PackedSpikes.pack(own), neurons, group).unpack(own.dtype)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[..., ctx.own].contiguous(), None, None


class _CopyToRanks(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grad, ctx.group, "adding up a gradient"), None


class _ReduceFromRanks(torch.autograd.Function):
    """The sum of what each rank has computed from its own neurons, whose gradient is each rank's own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:
        return all_reduce(part, group, "adding up a loss")

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


# Function.apply has no types.
gather_spikes_dense: Callable[[Tensor, int, Group], Tensor] = _GatherSpikes.apply
copy_to_ranks: Callable[[Tensor, Group], Tensor] = _CopyToRanks.apply
reduce_from_ranks: Callable[[Tensor, Group], Tensor] = _ReduceFromRanks.apply
