"""Differentiable LIF dynamics, products with packed spikes, and Poisson encoding, as functions.

Time comes first: ``[T, B, N]`` is T steps of B samples of N neurons. The LIF recursion of all steps is one compiled
call, and for its backward it keeps v (fp32, 4 bytes a neuron-step) and nothing else that grows with T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor

from spikefuse import ops
from spikefuse.differentiation import first_derivative_only
from spikefuse.packed import PackedSpikes, pack_counting
from spikefuse.surrogate import surrogate_id

RESETS: Final[dict[str, int]] = {"zero": 0, "subtract": 1, "none": 2}
"""What a spike does to v: to zero, minus the threshold, or nothing. The numbers are ``enum class Reset``'s."""


class LIFOutput(NamedTuple):
    """What a LIF recursion returns."""

    spikes: Tensor
    """0/1 in the dtype of the input, ``[T, B, N]``."""
    v: Tensor
    """Membrane potential before the reset, fp32 (fp64 for fp64 input), ``[T, B, N]``."""
    state: Tensor
    """Membrane potential after the last step's reset, same dtype as v, ``[B, N]``."""


class MaskedLossOutput(NamedTuple):
    """What the masked membrane-potential loss returns."""

    loss: Tensor
    """1/2 sum E^2 over time, samples and neurons; a scalar of v's dtype."""
    spikes: Tensor
    """0/1, ``[T, B, N]``; carries no gradient."""
    state: Tensor
    """Membrane potential after the last step's reset, ``[B, N]``."""
    open_errors: Tensor
    """How many neuron-steps the mask lets through; a scalar int64."""


def decay_factor(
    leak: float | Tensor | None = None, beta: float | Tensor | None = None, tau: float | Tensor | None = None
) -> float | Tensor:
    """The factor by which v decays in a step: ``1 - leak``, or ``beta`` (snnTorch), or ``1 - 1 / tau`` (SpikingJelly).

    Raises:
        TypeError: not exactly one of the three was given.
        ValueError: the one given is a number outside its range.

    >>> decay_factor(leak=0.25), decay_factor(beta=0.75), decay_factor(tau=4.0)
    (0.75, 0.75, 0.75)
    """
    given = {name: value for name, value in (("leak", leak), ("beta", beta), ("tau", tau)) if value is not None}
    if len(given) != 1:
        raise TypeError(f"expected exactly one of leak, beta and tau, got {', '.join(given) or 'none'}")
    ((name, value),) = given.items()
    if not isinstance(value, Tensor):
        lowest, highest = (1.0, math.inf) if name == "tau" else (0.0, 1.0)
        if not lowest <= value <= highest:
            raise ValueError(f"{name}: expected {lowest:g} <= {name} <= {highest:g}, got {value}")
    if name == "leak":
        return 1 - value
    return value if name == "beta" else 1 - 1 / value


def lif(
    z: Tensor,
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
    """T steps of leaky integrate-and-fire neurons: ``v[t] = decay * v'[t-1] + z[t]``, a spike where v >= threshold.

    v' is v after the reset. Differentiable with respect to z, state, and the decay and the threshold where they are
    tensors; the spike's derivative is the surrogate's (eqs 1-4 of Roy, Panda & Roy 2019).

    Args:
        z: input current ``[T, B, N]``, fp32, bf16, fp16 or fp64, any strides.
        state: v' of the step before the first, ``[B, N]``; zeros where None.
        leak, beta, tau: exactly one; see :func:`decay_factor`. A number, a scalar tensor or a tensor ``[N]``.
        threshold: a number, a scalar tensor or a tensor ``[N]``.
        reset: "zero", "subtract" (the threshold) or "none".
        detach_reset: True leaves the reset out of the gradient.
        surrogate: see :mod:`spikefuse.surrogate`.
        slope: of the surrogate, > 0.

    Raises:
        TypeError: not exactly one of leak, beta and tau; an unsupported dtype.
        ValueError: a shape, device, name or number that does not fit; the message says which.

    Example:
        >>> import torch, spikefuse
        >>> out = spikefuse.functional.lif(torch.full((3, 1, 1), 0.6), beta=0.5)
        >>> out.spikes.flatten().tolist(), out.state.item()
        ([0.0, 0.0, 1.0], 0.0)
    """
    settings = _lif_settings("lif", z, state, decay_factor(leak, beta, tau), threshold, reset, surrogate, slope)
    spikes, v, new_state, _, _ = _apply_lif(
        z, *settings.tensors, None, settings.reset, detach_reset, *settings.surrogate
    )
    return LIFOutput(spikes, v, new_state)


def lif_masked_loss(
    z: Tensor,
    target: PackedSpikes | Tensor,
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
) -> MaskedLossOutput:
    """:func:`lif` and the masked membrane-potential loss of its output (eqs 5-8), the error never stored.

    ``E = (y XOR s) * (threshold * y - v)``, ``loss = 1/2 sum E^2``. The forward scan sums the loss, the reverse scan
    makes E again from v. The mask is a constant of the derivative, so ``d loss / d v = -E``.

    Args:
        z: as in :func:`lif`.
        target: target spikes y, ``[T, B, N]``, packed or dense zeros and ones.
        state: as in :func:`lif`, like every argument that follows.

    Raises:
        TypeError, ValueError: as in :func:`lif`; also a target of another shape or device.

    Example:
        >>> import torch, spikefuse
        >>> z = torch.tensor([[[0.4, 1.2]]], requires_grad=True)
        >>> out = spikefuse.functional.lif_masked_loss(z, torch.ones(1, 1, 2), leak=0.1)
        >>> out.loss.backward()
        >>> round(out.loss.item(), 2), z.grad.tolist()
        (0.18, [[[-0.6000000238418579, 0.0]]])
    """
    settings = _lif_settings(
        "lif_masked_loss", z, state, decay_factor(leak, beta, tau), threshold, reset, surrogate, slope
    )
    packed = target if isinstance(target, PackedSpikes) else PackedSpikes.pack(target)
    _check_shape("lif_masked_loss", "target", packed.shape, list(z.shape))
    _check_device("lif_masked_loss", "target", packed.device, z)
    spikes, _, new_state, loss, open_errors = _apply_lif(
        z, *settings.tensors, packed.words, settings.reset, detach_reset, *settings.surrogate
    )
    return MaskedLossOutput(loss, spikes.detach(), new_state, open_errors)


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
    _check_dtype("spike_linear", "weight", weight.dtype)
    if not isinstance(x, (Tensor, PackedSpikes)):
        raise TypeError(f"spike_linear: expected x as a tensor or PackedSpikes, got {type(x).__name__}")
    if weight.dim() != 2:
        raise ValueError(f"spike_linear: expected weight of shape [out, in], got {list(weight.shape)}")
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"spike_linear: expected x of shape [..., {weight.shape[1]}], got {list(x.shape)}")
    _check_device("spike_linear", "x", x.device, weight)
    if bias is not None:
        _check_shape("spike_linear", "bias", bias.shape, [weight.shape[0]])
        _check_device("spike_linear", "bias", bias.device, weight)
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
    """:func:`spike_linear` and :func:`lif` in one kernel on CUDA, so that z is never stored; in fp32.

    The product is that on tensor cores whatever the density. :class:`spikefuse.LIFLinear` does not use it:
    ``benchmarks/throughput.py`` has it as a case of its own, and ``benchmarks/GPU.md`` says what is known of it.

    Args:
        x: ``[T, B, in]``, packed.
        weight: ``[out, in]``, fp32; fastest stored input-major, with strides (1, out).
        bias: ``[out]`` fp32, or None.
        state: ``[B, out]`` as in :func:`lif`, like every argument that follows.

    Raises:
        TypeError, ValueError: as :func:`spike_linear` and :func:`lif`; also a weight that is not fp32.

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
    _check_device("lif_linear", "x", x.device, weight)
    if bias is not None:
        _check_shape("lif_linear", "bias", bias.shape, [weight.shape[0]])
        _check_device("lif_linear", "bias", bias.device, weight)
        if bias.dtype != torch.float32:
            raise TypeError(f"lif_linear: expected bias of float32, got {bias.dtype}")
    # stands for the currents, which do not exist
    z = weight.new_empty(()).expand(*x.shape[:2], weight.shape[0])
    settings = _lif_settings("lif_linear", z, state, decay_factor(leak, beta, tau), threshold, reset, surrogate, slope)
    return LIFOutput(
        *_apply_lif_linear(x.words, weight, bias, *settings.tensors, settings.reset, detach_reset, *settings.surrogate)
    )


def poisson_encode(rates: Tensor, steps: int, *, seed: int, offset: int = 0) -> PackedSpikes:
    """Poisson spikes straight to bits: each input spikes at each step with its rate as probability, independently.

    The draws are counter-based (Philox4x32-10): a bit depends on ``seed``, ``offset``, its time step, its sample's
    position in the batch and its input, and on nothing else, so every backend and any number of threads give the same
    bits.

    Args:
        rates: spike probability per step, ``[B, N]``, in [0, 1], fp32, bf16, fp16 or fp64.
        steps: T >= 0.
        seed: 0 <= seed < 2^63.
        offset: stream number, 0 <= offset < 2^32; use another one for each batch.

    Returns:
        ``[T, B, N]``.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: another shape, a rate outside [0, 1] or NaN, or a number outside its range.

    Example:
        >>> import torch, spikefuse
        >>> spikefuse.functional.poisson_encode(torch.tensor([[0.0, 1.0]]), 3, seed=0).unpack().sum(0)
        tensor([[0., 3.]])
    """
    if not isinstance(rates, Tensor):
        raise TypeError(f"poisson_encode: expected rates as a tensor, got {type(rates).__name__}")
    _check_dtype("poisson_encode", "rates", rates.dtype)
    if rates.dim() != 2:
        raise ValueError(f"poisson_encode: expected rates of shape [B, N], got {list(rates.shape)}")
    for name, value, end in (("steps", steps, 2**32), ("seed", seed, 2**63), ("offset", offset, 2**32)):
        if isinstance(value, float):
            raise TypeError(f"poisson_encode: expected {name} as an int, got float")
        if not 0 <= value < end:
            raise ValueError(f"poisson_encode: expected 0 <= {name} < {end}, got {value}")
    if rates.numel() and not bool(((rates >= 0) & (rates <= 1)).all()):
        raise ValueError(
            f"poisson_encode: expected rates in [0, 1], got values from {float(rates.min())} to {float(rates.max())}"
        )
    ops.check_backend(rates, "poisson_encode")
    return PackedSpikes._trusted(ops.poisson_encode(rates.detach(), steps, seed, offset), rates.shape[1])


class _LIFSettings(NamedTuple):
    tensors: tuple[Tensor | None, Tensor, Tensor]
    reset: int
    surrogate: tuple[int, float]


def _lif_settings(
    caller: str,
    z: Tensor,
    state: Tensor | None,
    decay: float | Tensor,
    threshold: float | Tensor,
    reset: str,
    surrogate: str,
    slope: float,
) -> _LIFSettings:
    """Checks a LIF call and brings its arguments into the form of the op."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{caller}: expected z as a tensor, got {type(z).__name__}")
    _check_dtype(caller, "z", z.dtype)
    if z.dim() != 3:
        raise ValueError(f"{caller}: expected z of shape [T, B, N], got {list(z.shape)}")
    if reset not in RESETS:
        raise ValueError(f"{caller}: expected reset as one of {', '.join(RESETS)}, got {reset!r}")
    if not 0 < slope < math.inf:  # comparisons, which torch.compile can trace
        raise ValueError(f"{caller}: expected a finite slope > 0, got {slope}")
    if not isinstance(threshold, Tensor) and not -math.inf < threshold < math.inf:
        raise ValueError(f"{caller}: expected a finite threshold, got {threshold}")
    acc = ops.accumulate_dtype(z.dtype)
    if state is not None:
        _check_shape(caller, "state", state.shape, list(z.shape[1:]))
        _check_device(caller, "state", state.device, z)
        state = state.to(acc)
    ops.check_backend(z, "lif_forward")
    tensors = (
        state,
        _neuron_parameter(caller, "decay", decay, z, acc),
        _neuron_parameter(caller, "threshold", threshold, z, acc),
    )
    return _LIFSettings(tensors, RESETS[reset], (surrogate_id(surrogate), float(slope)))


def _neuron_parameter(caller: str, name: str, value: float | Tensor, z: Tensor, acc: torch.dtype) -> Tensor:
    """One value for all neurons, ``[1]``, or one for each, ``[N]``."""
    if not isinstance(value, Tensor):
        return torch.full((1,), value, dtype=acc, device=z.device)
    if value.dim() > 1 or value.numel() not in (1, z.shape[2]):
        raise ValueError(f"{caller}: expected {name} as a scalar or of shape [{z.shape[2]}], got {list(value.shape)}")
    _check_device(caller, name, value.device, z)
    return value.reshape(-1).to(acc)


def _check_dtype(caller: str, name: str, dtype: torch.dtype) -> None:
    if dtype not in ops.IO_DTYPES:
        raise TypeError(f"{caller}: expected {name} of dtype float32, bfloat16, float16 or float64, got {dtype}")


def _check_shape(caller: str, name: str, shape: torch.Size, expected: list[int]) -> None:
    if list(shape) != expected:
        raise ValueError(f"{caller}: expected {name} of shape {expected}, got {list(shape)}")


def _check_device(caller: str, name: str, device: torch.device, reference: Tensor) -> None:
    if device != reference.device:
        raise ValueError(f"{caller}: expected {name} on {reference.device}, got it on {device}")


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


class _LIF(torch.autograd.Function):
    """The LIF recursion with an optional masked loss; keeps v, and the packed target where there is one."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        state: Tensor | None,
        decay: Tensor,
        threshold: Tensor,
        target: Tensor | None,
        reset: int,
        detach_reset: bool,
        surrogate: int,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        spikes, v, new_state, loss, open_errors = ops.lif_forward(z, state, decay, threshold, target, reset)
        ctx.save_for_backward(v, state, decay, threshold, target)
        ctx.settings = (z.dtype, reset, detach_reset, surrogate, slope)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(open_errors)
        return spikes, v, new_state, loss, open_errors

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any,
        grad_spikes: Tensor | None,
        grad_v: Tensor | None,
        grad_state: Tensor | None,
        grad_loss: Tensor | None,
        _: None,
    ) -> tuple[Tensor | None, ...]:
        v, state, decay, threshold, target = ctx.saved_tensors
        dtype, reset, detach_reset, surrogate, slope = ctx.settings
        parameter_gradients = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        if grad_loss is None:
            target = None
        elif target is None:
            grad_loss = None
        grad_z, grad_initial, grad_decay, grad_threshold = ops.lif_backward(
            grad_spikes,
            grad_v,
            grad_state,
            grad_loss,
            v,
            state,
            decay,
            threshold,
            target,
            dtype,
            reset,
            detach_reset,
            surrogate,
            slope,
            parameter_gradients,
        )
        return (
            grad_z,
            grad_initial if ctx.needs_input_grad[1] else None,
            _sum_like(grad_decay, decay) if ctx.needs_input_grad[2] else None,
            _sum_like(grad_threshold, threshold) if ctx.needs_input_grad[3] else None,
            *(None,) * 5,
        )


def _sum_like(per_sample: Tensor, parameter: Tensor) -> Tensor:
    """Sums ``[B, N]`` to the shape of a neuron parameter, ``[1]`` or ``[N]``."""
    total = per_sample.sum(0)
    return total if parameter.shape == total.shape else total.sum(0, keepdim=True)


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
            _sum_like(grad_decay, decay) if ctx.needs_input_grad[4] else None,
            _sum_like(grad_threshold, threshold) if ctx.needs_input_grad[5] else None,
            *(None,) * 4,
        )


# Function.apply has no types.
_apply_lif_linear: Callable[..., tuple[Tensor, Tensor, Tensor]] = _LIFLinear.apply
_apply_lif: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = _LIF.apply
_apply_spike_linear: Callable[..., Tensor] = _SpikeLinear.apply
