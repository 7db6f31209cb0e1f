"""The spiking audiocoder of Roy, Panda & Roy (2019): from a cochleagram to an autoencoder's hidden spikes."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from spikefuse import online
from spikefuse.online import OnlineRule, OnlineStats
from spikefuse.packed import PackedSpikes
from spikefuse.paper.models.autoencoder import Preset
from spikefuse.paper.models.config import Configured, number


def audiocoder_preset(trace: str) -> Preset:
    """The settings of the two readings of the paper, for an audiocoder.

    "shared" is what the authors released as code: one trace per input, D is each layer's fan-in, a clamped membrane, no
    weight decay. "gated" is what the text says: a trace per synapse, weight decay 1e-4. Both have lr 5e-5 and leak 0.1;
    initial weights uniform in +-0.01 and at most 0.02 spikes per step are the code's, and the text gives neither.

    Args:
        trace: "shared" or "gated".

    Raises:
        ValueError: another trace.

    Example:
        >>> audiocoder_preset("shared").max_rate, audiocoder_preset("gated").rule.weight_decay
        (0.02, 0.0001)
    """
    if trace == "shared":
        return Preset(OnlineRule(trace="shared", lr=5e-5, eps=1e-7), 0.01, 0.02)
    if trace == "gated":
        return Preset(OnlineRule(trace="gated", lr=5e-5, eps=1e-8, weight_decay=1e-4), 0.01, 0.02)
    raise ValueError(f"audiocoder_preset: expected trace as one of {', '.join(online.TRACES)}, got {trace!r}")


class Audiocoder(Configured, nn.Module):
    """Two layers of LIF neurons that learn online to emit the hidden spikes of the image that a sound stands for.

    ``hidden = LIF(x W_1^T)``, ``output = LIF(hidden W_2^T)``, no biases (eqs 1-2). Weights have nn.Linear's shape
    (out, in), are stored input-major with strides (1, out), and are changed by :meth:`learn_` alone. The default size
    holds 480 MB.

    Args:
        in_features: length of a cochleagram, >= 1; 39 channels x 1,500 frames by default.
        hidden_features: number of hidden neurons, >= 1.
        out_features: hidden neurons of the autoencoder, >= 1.
        rule: of the online learning; its leak and threshold are the neurons'. None for ``audiocoder_preset("shared")``.
        init_bound: initial weights are uniform in +- this.
        generator: of the initial weights, on the CPU; None for torch's global one.

    Raises:
        ValueError: a size below 1, or an ``init_bound`` that is not finite and > 0.

    Example:
        >>> from spikefuse.functional import poisson_encode
        >>> model = Audiocoder(300, 64, 16)
        >>> sound = poisson_encode(torch.rand(4, 300) * 0.2, steps=60, seed=0)
        >>> targets = poisson_encode(torch.rand(4, 16) * 0.3, steps=60, seed=1)
        >>> model.learn_(sound, targets).steps
        60
        >>> model(sound)
        PackedSpikes(shape=(60, 4, 16), device=cpu)
    """

    KIND = "audiocoder"
    SETTINGS: ClassVar = {
        "in_features": number,
        "hidden_features": number,
        "out_features": number,
        "init_bound": number,
        "rule": OnlineRule.from_dict,
    }

    first_weight: nn.Parameter
    second_weight: nn.Parameter

    def __init__(
        self,
        in_features: int = 58_500,
        hidden_features: int = 2_048,
        out_features: int = 196,
        rule: OnlineRule | None = None,
        *,
        init_bound: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"Audiocoder: expected {name} >= 1, got {size}")
        if not 0 < init_bound < math.inf:
            raise ValueError(f"Audiocoder: expected a finite init_bound > 0, got {init_bound}")
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.out_features = out_features
        self.rule = audiocoder_preset("shared").rule if rule is None else rule
        self.init_bound = init_bound
        # Made input-major and seen transposed: a spike then reads one contiguous row.
        self.first_weight = nn.Parameter(torch.empty(in_features, hidden_features).t(), requires_grad=False)
        self.second_weight = nn.Parameter(torch.empty(hidden_features, out_features).t(), requires_grad=False)
        for weight in self.weights:
            # Filled in the order of memory: a strided fill of the first layer takes several times as long.
            nn.init.uniform_(weight.t(), -init_bound, init_bound, generator=generator)

    @property
    def weights(self) -> list[Tensor]:
        """``[hidden, in]`` and ``[out, hidden]``, as :mod:`spikefuse.online` takes them."""
        return [self.first_weight, self.second_weight]

    def forward(self, inputs: PackedSpikes | Tensor) -> PackedSpikes:
        """Output spike trains, with the weights held.

        Args:
            inputs: spikes ``[T, B, in_features]``, packed or dense.

        Returns:
            ``[T, B, out_features]``.

        Raises:
            TypeError, ValueError: inputs of another shape, dtype or device; the message says which.
        """
        return online.forward(self.weights, inputs, self.rule)[-1]

    def learn_(self, inputs: PackedSpikes | Tensor, targets: PackedSpikes | Tensor) -> OnlineStats:
        """Learns from one batch: the weights change at each of its time steps (eqs 5-17).

        Args:
            inputs: as in :meth:`forward`.
            targets: spikes ``[T, B, out_features]`` to emit, such as :meth:`spikefuse.paper.models.HiddenMaps.targets`.

        Raises:
            TypeError, ValueError, FloatingPointError: as :func:`spikefuse.online.online_batch_`.
        """
        return online.online_batch_(self.weights, inputs, targets, self.rule)

    def extra_repr(self) -> str:
        """Sizes and reading."""
        return (
            f"in_features={self.in_features}, hidden_features={self.hidden_features}, "
            f"out_features={self.out_features}, trace={self.rule.trace}"
        )
