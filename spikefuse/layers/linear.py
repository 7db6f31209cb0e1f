"""A fully connected layer of LIF neurons."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spikefuse import functional
from spikefuse.functional.lif import MaskedLossOutput
from spikefuse.layers.lif import LIF
from spikefuse.packed import PackedSpikes


class LIFLinear(nn.Module):
    """A fully connected layer of LIF neurons: ``z = x W^T + bias``, then the LIF recursion over all time steps.

    The weight has nn.Linear's shape (out, in) and is stored input-major, with strides (1, out): the event-driven
    product reads one contiguous row per spike. For its backward a layer keeps v, 4 bytes a neuron-step, and its input
    as bits, 1/8 byte an input-step; a real-valued dense input is kept as it is.

    Args:
        in_features, out_features: number of inputs and of neurons, >= 1.
        bias: add a learnable bias to z.
        leak, beta, tau, threshold, reset, detach_reset, surrogate, slope, learn_beta, learn_threshold, batch_first: as
            in :class:`spikefuse.layers.LIF`.
        dtype: of weight, bias, dense input and spikes: fp32, bf16, fp16 or fp64. v and state are fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: as :class:`spikefuse.layers.LIF`; also sizes below 1.

    Example:
        >>> import torch, spikefuse
        >>> layer = spikefuse.LIFLinear(784, 196, leak=0.1)
        >>> spikes, state = layer((torch.rand(15, 8, 784) < 0.1).float())
        >>> spikes.sum().backward()
        >>> layer.weight.grad.shape, layer.weight.stride()
        (torch.Size([196, 784]), (1, 196))
    """

    _neuron_type: type[LIF] = LIF

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        leak: float | Tensor | None = None,
        beta: float | Tensor | None = None,
        tau: float | Tensor | None = None,
        threshold: float | Tensor = 1.0,
        reset: str = "zero",
        detach_reset: bool = True,
        surrogate: str = "sigmoid",
        slope: float = 1.0,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size < 1:
                raise ValueError(f"LIFLinear: expected {name} >= 1, got {size}")
        for name, value in (("leak", leak), ("beta", beta), ("tau", tau), ("threshold", threshold)):
            if isinstance(value, Tensor) and value.numel() not in (1, out_features):
                raise ValueError(
                    f"LIFLinear: expected {name} as a scalar or of shape [{out_features}], got {list(value.shape)}"
                )
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(in_features, out_features, device=device, dtype=dtype).t())
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.lif = self._neuron_type(
            leak=leak,
            beta=beta,
            tau=tau,
            threshold=threshold,
            reset=reset,
            detach_reset=detach_reset,
            surrogate=surrogate,
            slope=slope,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """nn.Linear's initialisation: weights and bias uniform in +-1 / sqrt(in_features)."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _current(self, x: Tensor | PackedSpikes) -> Tensor:
        shape = f"[{'B, T' if self.lif.batch_first else 'T, B'}, {self.in_features}]"
        if not isinstance(x, (Tensor, PackedSpikes)):
            raise TypeError(f"LIFLinear: expected x as a tensor or PackedSpikes, got {type(x).__name__}")
        if len(x.shape) != 3 or x.shape[2] != self.in_features:
            raise ValueError(f"LIFLinear: expected x of shape {shape}, got {list(x.shape)}")
        return functional.spike_linear(x, self.weight, self.bias)

    def forward(
        self, x: Tensor | PackedSpikes, state: Tensor | None = None, *, return_vmem: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Spikes and state of input spikes, or of real-valued inputs.

        Args:
            x: ``[T, B, in]`` (``[B, T, in]`` with batch_first), dense or packed.
            state: ``[B, out]`` from the call before, or None for zeros.
            return_vmem: also return v before the reset, ``[T, B, out]`` fp32.

        Returns:
            ``spikes, state`` or ``spikes, state, v``.

        Raises:
            TypeError, ValueError: an input of another shape, dtype or device; the message says which.
        """
        out: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor] = self.lif(
            self._current(x), state, return_vmem=return_vmem
        )
        return out

    def masked_loss(
        self, x: Tensor | PackedSpikes, target: PackedSpikes | Tensor, state: Tensor | None = None
    ) -> MaskedLossOutput:
        """The masked membrane-potential loss of this layer as the output layer (eqs 5-8).

        Args:
            x: as in ``forward``.
            target: target spikes, ``[T, B, out]`` (``[B, T, out]`` with batch_first), packed or dense.
            state: as in ``forward``.

        Raises:
            TypeError, ValueError: as ``forward``; also a target that does not fit.
        """
        return self.lif.masked_loss(self._current(x), target, state)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
