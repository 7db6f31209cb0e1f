"""The spiking autoencoder of Roy, Panda & Roy (2019), trained online."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from spikefuse import online
from spikefuse.online import OnlineRule, OnlineStats
from spikefuse.packed import PackedSpikes
from spikefuse.paper.models.config import Configured, number


@dataclass(frozen=True)
class Preset:
    """Settings of one reading of the paper, beyond the equations.

    Attributes:
        rule: of the online learning.
        init_bound: initial weights are uniform in +- this; None for +-1 / sqrt(fan-in) of each layer.
        max_rate: spike probability per step of a pixel of value 1.
    """

    rule: OnlineRule
    init_bound: float | None
    max_rate: float


def preset(trace: str, in_features: int = 784) -> Preset:
    """The settings of the two readings of the paper, for an autoencoder of ``in_features`` inputs.

    "shared" is what the authors released as code: one trace per input, with D = ``in_features`` in both layers, a
    clamped membrane, no weight decay, weights uniform in +-0.1, a maximum rate of 0.3. "gated" is what the text says: a
    trace per synapse, weight decay 1e-4; the text gives neither initial weights nor a rate, and with +-1 / sqrt(fan-in)
    and 1.0 it learns well, with 0.3 badly.

    Args:
        trace: "shared" or "gated".
        in_features: number of inputs, >= 1.

    Raises:
        ValueError: another trace, or ``in_features`` below 1.

    Example:
        >>> preset("shared").max_rate, preset("gated").rule.weight_decay
        (0.3, 0.0001)
    """
    if in_features < 1:
        raise ValueError(f"preset: expected in_features >= 1, got {in_features}")
    if trace == "shared":
        return Preset(OnlineRule(trace="shared", trace_divisor=float(in_features), eps=1e-7), 0.1, 0.3)
    if trace == "gated":
        return Preset(OnlineRule(trace="gated", weight_decay=1e-4, eps=1e-8), None, 1.0)
    raise ValueError(f"preset: expected trace as one of {', '.join(online.TRACES)}, got {trace!r}")


class SpikingAutoencoder(Configured, nn.Module):
    """Two layers of LIF neurons that learn online to emit at their output the spikes of their input.

    ``hidden = LIF(x W_encoder^T)``, ``output = LIF(hidden W_decoder^T)``, no biases (eqs 1-2). The weights have
    nn.Linear's shape (out, in), are stored input-major with strides (1, out), and are changed by :meth:`learn_` alone:
    nothing here is differentiated by autograd. For that, stack :class:`spikefuse.LIFLinear`.

    Args:
        in_features: number of inputs and outputs, >= 1.
        hidden_features: number of hidden neurons, >= 1.
        rule: of the online learning; its leak and threshold are the neurons'. See :func:`preset`.
        init_bound: initial weights are uniform in +- this; None for +-1 / sqrt(fan-in) of each layer.
        generator: of the initial weights, on the CPU; None for torch's global one.
        dtype: fp32 or fp64.

    Raises:
        TypeError: another dtype.
        ValueError: a size below 1, or an ``init_bound`` that is not finite and > 0.

    Example:
        >>> import torch
        >>> from spikefuse.functional import poisson_encode
        >>> model = SpikingAutoencoder(64, 32, preset("shared", 64).rule)
        >>> spikes = poisson_encode(torch.rand(10, 64), steps=15, seed=0)
        >>> stats = model.learn_(spikes)
        >>> model(spikes)
        PackedSpikes(shape=(15, 10, 64), device=cpu)
    """

    KIND = "spiking"
    SETTINGS: ClassVar = {
        "in_features": number,
        "hidden_features": number,
        "init_bound": number,
        "rule": OnlineRule.from_dict,
    }

    encoder_weight: nn.Parameter
    decoder_weight: nn.Parameter

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        rule: OnlineRule,
        *,
        init_bound: float | None = 0.1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("hidden_features", hidden_features)):
            if size < 1:
                raise ValueError(f"SpikingAutoencoder: expected {name} >= 1, got {size}")
        if init_bound is not None and not 0 < init_bound < math.inf:
            raise ValueError(f"SpikingAutoencoder: expected a finite init_bound > 0 or None, got {init_bound}")
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"SpikingAutoencoder: expected dtype float32 or float64, got {dtype}")
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.rule = rule
        self.init_bound = init_bound
        # Made input-major and seen transposed: a spike then reads one contiguous row.
        self.encoder_weight = nn.Parameter(
            torch.empty(in_features, hidden_features, dtype=dtype).t(), requires_grad=False
        )
        self.decoder_weight = nn.Parameter(
            torch.empty(hidden_features, in_features, dtype=dtype).t(), requires_grad=False
        )
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the initial weights anew.

        Args:
            generator: as for the class.
        """
        for weight in self.weights:
            bound = 1 / math.sqrt(weight.shape[1]) if self.init_bound is None else self.init_bound
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    @property
    def weights(self) -> list[Tensor]:
        """Encoder ``[hidden, in]`` and decoder ``[in, hidden]``, as :mod:`spikefuse.online` takes them."""
        return [self.encoder_weight, self.decoder_weight]

    def encode(self, inputs: PackedSpikes | Tensor) -> PackedSpikes:
        """Hidden spike trains of inputs.

        Args:
            inputs: spikes ``[T, B, in_features]``, packed or dense.

        Returns:
            ``[T, B, hidden_features]``.

        Raises:
            TypeError, ValueError: inputs of another shape, dtype or device; the message says which.
        """
        return online.forward([self.encoder_weight], inputs, self.rule)[0]

    def decode(self, hidden: PackedSpikes | Tensor) -> PackedSpikes:
        """Output spike trains of hidden ones, from this autoencoder's :meth:`encode` or from anywhere else.

        Args:
            hidden: spikes ``[T, B, hidden_features]``, packed or dense.

        Returns:
            ``[T, B, in_features]``.

        Raises:
            TypeError, ValueError: as :meth:`encode`.
        """
        return online.forward([self.decoder_weight], hidden, self.rule)[0]

    def forward(self, inputs: PackedSpikes | Tensor) -> PackedSpikes:
        """``decode(encode(inputs))``, with the weights held.

        Args:
            inputs: as in :meth:`encode`.

        Raises:
            TypeError, ValueError: as :meth:`encode`.
        """
        return self.decode(self.encode(inputs))

    def learn_(self, inputs: PackedSpikes | Tensor, targets: PackedSpikes | Tensor | None = None) -> OnlineStats:
        """Learns from one batch: the weights change at each of its time steps (eqs 5-17).

        Args:
            inputs: as in :meth:`encode`.
            targets: spikes ``[T, B, in_features]`` to emit; None for the inputs.

        Raises:
            TypeError, ValueError, FloatingPointError: as :func:`spikefuse.online.online_batch_`.
        """
        return online.online_batch_(self.weights, inputs, inputs if targets is None else targets, self.rule)

    def extra_repr(self) -> str:
        """Sizes and reading."""
        return f"in_features={self.in_features}, hidden_features={self.hidden_features}, trace={self.rule.trace}"
