"""Products of spikes and weights, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from spikefuse import ops
from spikefuse.functional.checks import check_device, check_dtype, check_shape
from spikefuse.functional.differentiation import first_derivative_only
from spikefuse.packed import PackedSpikes, pack_counting


def spike_linear(x: PackedSpikes | Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` where x is spikes: without multiplications for packed and for dense 0/1 inputs.

    A dense input is packed on the way. If it is all zeros and ones, the product adds up the weight rows of the inputs
    that spike, where they are sparse, and sums of several rows looked up in a table, where they are dense; it keeps 1
    bit per input-step for the backward. Any other dense input takes ``torch.nn.functional.linear``. On CUDA and under
    torch.compile a dense input always does: the choice depends on data, and a GPU would be waited for.

    On CUDA a packed input's rows are gathered where they are sparse, and multiplied on tensor cores, as exact sums of
    three bf16 products, where they are dense; the device chooses, and nothing waits for it. As in any dense product, a
    weight that is not finite then makes its column of z NaN for all rows.

    Args:
        x: ``[..., in]``, packed, or dense with the dtype of ``weight``.
        weight: ``[out, in]``; fastest stored input-major, that is with strides (1, out).
        bias: ``[out]`` or None.

    Returns:
        ``[..., out]`` in the dtype of ``weight``, or autocast's; sums are fp32 or wider.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch, spikefuse
        >>> x = spikefuse.PackedSpikes.pack(torch.tensor([[1.0, 0.0, 1.0]]))
        >>> spikefuse.functional.spike_linear(x, torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([[5.]])
    """
    check_dtype("spike_linear", "weight", weight.dtype)
    if not isinstance(x, (Tensor, PackedSpikes)):
        raise TypeError(f"spike_linear: expected x as a tensor or PackedSpikes, got {type(x).__name__}")
    if weight.dim() != 2:
        raise ValueError(f"spike_linear: expected weight of shape [out, in], got {list(weight.shape)}")
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"spike_linear: expected x of shape [..., {weight.shape[1]}], got {list(x.shape)}")
    check_device("spike_linear", "x", x.device, weight)
    if bias is not None:
        check_shape("spike_linear", "bias", bias.shape, [weight.shape[0]])
        check_device("spike_linear", "bias", bias.device, weight)
        if bias.dtype != weight.dtype:
            raise TypeError(f"spike_linear: expected bias of dtype {weight.dtype}, the weight's, got {bias.dtype}")
    ops.check_backend(weight, "spike_matmul")
    dense, packed = (None, x) if isinstance(x, PackedSpikes) else (x, _pack_if_spikes(x, weight))
    if packed is None:
        return torch.nn.functional.linear(cast(Tensor, dense), weight, bias)
    device = weight.device.type
    autocasts = torch.is_autocast_enabled(device) and weight.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if autocasts else weight.dtype
    z: Tensor = _apply_spike_linear(dense, packed.words, weight, dtype)
    return z if bias is None else z + bias.to(dtype)


def _pack_if_spikes(x: Tensor, weight: Tensor) -> PackedSpikes | None:
    """The packed form of x, if it is zeros and ones, and to ask costs neither a graph break nor a wait for a GPU."""
    if x.dtype != weight.dtype:
        if torch.is_autocast_enabled(x.device.type):
            return None
        raise TypeError(f"spike_linear: expected x of dtype {weight.dtype}, the weight's, got {x.dtype}")
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return None
    packed, _, not_spikes = pack_counting(x)
    return None if not_spikes else packed


class _SpikeLinear(torch.autograd.Function):
    """``X W^T`` of spikes given as words, which are kept; ``dense`` is X itself where a gradient may be asked of it."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor | None, words: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        rows = words.reshape(words.shape[:-1].numel(), words.shape[-1])
        input_major = weight.detach().t().to(ops.accumulate_dtype(weight.dtype))
        z = ops.spike_matmul(rows, input_major).to(dtype)
        ctx.save_for_backward(words, weight if ctx.needs_input_grad[0] else None)
        ctx.in_features, ctx.weight_dtype = weight.shape[1], weight.dtype
        return z.reshape(*words.shape[:-1], weight.shape[0])

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        words, weight = ctx.saved_tensors
        grad_dense = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_dense = grad.to(weight.dtype) @ weight
        if ctx.needs_input_grad[2]:
            rows = words.reshape(words.shape[:-1].numel(), words.shape[-1])
            grad_rows = grad.reshape(rows.shape[0], grad.shape[-1]).to(ops.accumulate_dtype(ctx.weight_dtype))
            # [in, out], returned as the (out, in) view that matches the parameter's own strides
            grad_weight = ops.spike_matmul_transposed(rows, grad_rows, ctx.in_features).to(ctx.weight_dtype).t()
        return grad_dense, None, grad_weight, None


# Function.apply has no types.
_apply_spike_linear: Callable[..., Tensor] = _SpikeLinear.apply
