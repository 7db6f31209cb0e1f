"""Layers for autograd whose neurons are spread over ranks."""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor, nn

from spikefuse.distributed.ranks import (
    Group,
    copy_to_ranks,
    gather_spikes,
    gather_spikes_dense,
    own_slice,
    reduce_from_ranks,
)
from spikefuse.functional.lif import MaskedLossOutput
from spikefuse.layers.lif import LIF
from spikefuse.layers.linear import LIFLinear
from spikefuse.packed import PackedSpikes

_DRAWN_AT_ONCE: Final = 1 << 22
"""Random numbers drawn at a time, to keep one rank's slice of them."""

_M = TypeVar("_M", bound=nn.Module)


def for_fully_shard(module: _M) -> _M:
    """Gives the parameters of all :class:`spikefuse.LIFLinear` in a module the form that ``fully_shard`` (FSDP2) takes.

    It takes contiguous parameters of at least one dimension. The weights become output-major, as nn.Linear's, which
    costs a transposition in each forward; a learned decay or threshold that all neurons share becomes one of shape
    ``[1]``. Of a layer that is sharded on its own, ``masked_loss`` needs
    ``torch.distributed.fsdp.register_fsdp_forward_method(layer, "masked_loss")``. DistributedDataParallel needs none of
    this, but sees only what goes through its own ``forward``.

    Args:
        module: changed in place, before its optimizer is made.

    Returns:
        ``module``.

    Raises:
        TypeError: it holds a :class:`NeuronParallelLIFLinear`, whose weights are spread already.

    Example:
        >>> layer = for_fully_shard(LIFLinear(8, 4, beta=0.9, learn_beta=True))
        >>> layer.weight.is_contiguous(), layer.lif.beta.shape
        (True, torch.Size([1]))
    """
    for part in module.modules():
        if isinstance(part, NeuronParallelLIFLinear):
            raise TypeError("for_fully_shard: expected plain LIFLinear layers, got NeuronParallelLIFLinear")
        if isinstance(part, LIFLinear):
            part.weight = nn.Parameter(part.weight.detach().contiguous(), part.weight.requires_grad)
        if isinstance(part, LIF):
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(value.detach().reshape(-1), value.requires_grad))
    return module


class _OwnLIF(LIF):
    """LIF neurons of one rank. One decay or threshold for the whole layer learns from all ranks' neurons."""

    group: Group = None

    def _shared(self, value: float | Tensor) -> float | Tensor:
        one_for_all = isinstance(value, Tensor) and value.requires_grad and value.dim() == 0
        return copy_to_ranks(cast(Tensor, value), self.group) if one_for_all else value

    def _decay(self) -> float | Tensor:
        return self._shared(super()._decay())

    def _threshold(self) -> float | Tensor:
        return self._shared(super()._threshold())


class NeuronParallelLIFLinear(LIFLinear):
    """A :class:`spikefuse.LIFLinear` whose neurons are spread over ranks.

    All ranks pass the same input and get the spikes of the whole layer; weight, bias, state and v are those of this
    rank's neurons. Forward sends 1 bit for each neuron-step; the backward sends the gradient of the input, where one is
    asked for. Spikes are those of a single rank, gradients differ from its by the order of sums over neurons.

    Args:
        in_features: number of inputs.
        out_features: number of neurons of the whole layer.
        group: the ranks that share it; None for all.
        bias, settings: as in :class:`spikefuse.LIFLinear`, for the whole layer: a leak of shape ``[out_features]`` is
            sliced here.

    Attributes:
        own: the slice of the layer's neurons that is here.

    Raises:
        TypeError, ValueError: as :class:`spikefuse.LIFLinear`; also a layer too small for that many ranks.

    Example:
        >>> layer = NeuronParallelLIFLinear(784, 196, leak=0.1)
        >>> spikes, state = layer((torch.rand(15, 8, 784) < 0.1).float())
        >>> spikes.shape, layer.own
        (torch.Size([15, 8, 196]), slice(0, 196, None))
    """

    _neuron_type = _OwnLIF

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, *, group: Group = None, **settings: Any
    ) -> None:
        if out_features < 1:
            raise ValueError(f"NeuronParallelLIFLinear: expected out_features >= 1, got {out_features}")
        own = own_slice(out_features, group)
        for name in ("leak", "beta", "tau", "threshold"):
            value = settings.get(name)
            if not isinstance(value, Tensor):
                continue
            if value.numel() == 1:
                settings[name] = value.reshape(())
                continue
            if list(value.shape) != [out_features]:
                raise ValueError(
                    f"NeuronParallelLIFLinear: expected {name} as a scalar or of shape [{out_features}], got "
                    f"{list(value.shape)}"
                )
            settings[name] = value[own]
        self.group, self.own = group, own
        self.all_neurons = out_features
        super().__init__(in_features, own.stop - own.start, bias, **settings)
        self.out_features = out_features
        cast(_OwnLIF, self.lif).group = group

    def reset_parameters(self) -> None:
        """The values that one rank would have, given the same seed on all ranks: each draws all and keeps its own."""
        bound = self.in_features**-0.5
        rows = max(1, _DRAWN_AT_ONCE // self.all_neurons)
        with torch.no_grad():
            for first in range(0, self.in_features, rows):
                mine = self.weight[:, first : first + rows]
                drawn = self.weight.new_empty(mine.shape[1], self.all_neurons).uniform_(-bound, bound)
                mine.copy_(drawn[:, self.own].t())
            if self.bias is not None:
                self.bias.copy_(self.bias.new_empty(self.all_neurons).uniform_(-bound, bound)[self.own])

    def _current(self, x: Tensor | PackedSpikes) -> Tensor:
        if isinstance(x, Tensor) and x.requires_grad:
            x = copy_to_ranks(x, self.group)
        return super()._current(x)

    def forward(
        self, x: Tensor | PackedSpikes, state: Tensor | None = None, *, return_vmem: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Spikes of the whole layer and state of this rank's neurons.

        Args:
            x: ``[T, B, in]`` (``[B, T, in]`` with batch_first), dense or packed, the same on all ranks.
            state: ``[B, own neurons]`` from the call before, or None for zeros.
            return_vmem: also return v before the reset, ``[T, B, own neurons]`` fp32.

        Returns:
            ``spikes, state`` or ``spikes, state, v``.

        Raises:
            TypeError, ValueError: as :meth:`spikefuse.LIFLinear.forward`.
            PeerError: another rank is lost.
        """
        spikes, *others = super().forward(x, state, return_vmem=return_vmem)
        return cast("tuple[Tensor, Tensor]", (gather_spikes_dense(spikes, self.all_neurons, self.group), *others))

    def masked_loss(
        self, x: Tensor | PackedSpikes, target: PackedSpikes | Tensor, state: Tensor | None = None
    ) -> MaskedLossOutput:
        """The masked membrane-potential loss of the whole layer as the output layer (eqs 5-8).

        Args:
            x: as in ``forward``.
            target: target spikes of the whole layer.
            state: as in ``forward``.

        Raises:
            TypeError, ValueError: as :meth:`spikefuse.LIFLinear.masked_loss`.
            PeerError: another rank is lost.
        """
        if len(target.shape) != 3 or target.shape[2] != self.all_neurons:
            raise ValueError(
                f"NeuronParallelLIFLinear: expected target of {self.all_neurons} neurons, got {list(target.shape)}"
            )
        dense = target.unpack() if isinstance(target, PackedSpikes) else target
        out = super().masked_loss(x, dense[..., self.own], state)
        return MaskedLossOutput(
            reduce_from_ranks(out.loss, self.group),
            gather_spikes(PackedSpikes.pack(out.spikes), self.all_neurons, self.group).unpack(out.spikes.dtype),
            out.state,
            reduce_from_ranks(out.mismatches, self.group),
        )
