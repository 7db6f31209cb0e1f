"""The product and the LIF recursion of a layer in one op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikefuse import ops
from spikefuse.functional.checks import check_device, check_shape
from spikefuse.functional.differentiation import first_derivative_only
from spikefuse.functional.lif import LIFOutput, decay_factor, lif_settings, sum_like
from spikefuse.packed import PackedSpikes


def lif_linear(
    x: PackedSpikes,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    leak: float | Tensor | None = None,
    beta: float | Tensor | None = None,
    tau: float | Tensor | None = None,
    threshold: float | Tensor = 1.0,
    reset: str = "zero",
    detach_reset: bool = True,
    surrogate: str = "sigmoid",
    slope: float = 1.0,
) -> LIFOutput:
    """:func:`spikefuse.functional.spike_linear` and :func:`spikefuse.functional.lif` in one kernel on CUDA, so that z
    is never stored; in fp32.

    The product is that on tensor cores whatever the density. :class:`spikefuse.LIFLinear` does not use it:
    ``benchmarks/throughput.py`` has it as a case of its own, and ``benchmarks/GPU.md`` says what is known of it.

    Args:
        x: ``[T, B, in]``, packed.
        weight: ``[out, in]``, fp32; fastest stored input-major, with strides (1, out).
        bias: ``[out]`` fp32, or None.
        state: ``[B, out]`` as in :func:`spikefuse.functional.lif`, like every argument that follows.

    Raises:
        TypeError, ValueError: as :func:`spikefuse.functional.spike_linear` and :func:`spikefuse.functional.lif`; also a
            weight that is not fp32.

    Example:
        >>> import torch, spikefuse
        >>> x = spikefuse.PackedSpikes.pack(torch.ones(3, 1, 2))
        >>> spikefuse.functional.lif_linear(x, torch.full((1, 2), 0.3), leak=0.5).spikes.flatten().tolist()
        [0.0, 0.0, 1.0]
    """
    if not isinstance(x, PackedSpikes):
        raise TypeError(f"lif_linear: expected x as PackedSpikes, got {type(x).__name__}")
    if weight.dtype != torch.float32 or weight.dim() != 2:
        raise TypeError(f"lif_linear: expected weight [out, in] of float32, got {list(weight.shape)}, {weight.dtype}")
    if len(x.shape) != 3 or x.shape[2] != weight.shape[1]:
        raise ValueError(f"lif_linear: expected x of shape [T, B, {weight.shape[1]}], got {list(x.shape)}")
    check_device("lif_linear", "x", x.device, weight)
    if bias is not None:
        check_shape("lif_linear", "bias", bias.shape, [weight.shape[0]])
        check_device("lif_linear", "bias", bias.device, weight)
        if bias.dtype != torch.float32:
            raise TypeError(f"lif_linear: expected bias of float32, got {bias.dtype}")
    # stands for the currents, which do not exist
    z = weight.new_empty(()).expand(*x.shape[:2], weight.shape[0])
    settings = lif_settings("lif_linear", z, state, decay_factor(leak, beta, tau), threshold, reset, surrogate, slope)
    return LIFOutput(
        *_apply_lif_linear(x.words, weight, bias, *settings.tensors, settings.reset, detach_reset, *settings.surrogate)
    )


class _LIFLinear(torch.autograd.Function):
    """Product and recursion in one op; keeps the input's bits and v."""

    @staticmethod
    def forward(
        ctx: Any,
        words: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        state: Tensor | None,
        decay: Tensor,
        threshold: Tensor,
        reset: int,
        detach_reset: bool,
        surrogate: int,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = ops.lif_linear_forward(words, weight.detach().t(), bias, state, decay, threshold, reset)
        ctx.save_for_backward(words, out[1], state, decay, threshold)
        ctx.settings = (reset, detach_reset, surrogate, slope)
        ctx.in_features = weight.shape[1]
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None, grad_state: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        words, v, state, decay, threshold = ctx.saved_tensors
        reset, detach_reset, surrogate, slope = ctx.settings
        parameter_gradients = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
        grad_z, grad_initial, grad_decay, grad_threshold = ops.lif_backward(
            grad_spikes,
            grad_v,
            grad_state,
            None,
            v,
            state,
            decay,
            threshold,
            None,
            torch.float32,
            reset,
            detach_reset,
            surrogate,
            slope,
            parameter_gradients,
        )
        grad_weight = None
        if ctx.needs_input_grad[1]:
            steps, samples, width = words.shape
            rows, grad_rows = words.reshape(steps * samples, width), grad_z.reshape(steps * samples, grad_z.shape[2])
            grad_weight = ops.spike_matmul_transposed(rows, grad_rows, ctx.in_features).t()
        return (
            None,
            grad_weight,
            grad_z.sum((0, 1)) if ctx.needs_input_grad[2] else None,
            grad_initial if ctx.needs_input_grad[3] else None,
            sum_like(grad_decay, decay) if ctx.needs_input_grad[4] else None,
            sum_like(grad_threshold, threshold) if ctx.needs_input_grad[5] else None,
            *(None,) * 4,
        )


# Function.apply has no types.
_apply_lif_linear: Callable[..., tuple[Tensor, Tensor, Tensor]] = _LIFLinear.apply
