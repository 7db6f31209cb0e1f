"""The compiled ops, typed, and their fake kernels for torch.compile and export.

Raw ops have no autograd formula and check little: use ``spikefuse.functional``. Shapes and meanings stand beside the
prototypes in ``csrc/ops.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

import torch
from torch import Tensor

from spikefuse._load import load

load()

SPIKE_DTYPES: Final = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
)
"""Element types that spikes can be packed from and unpacked to."""

IO_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Element types of a layer's input and output."""

_ops = torch.ops.spikefuse

_F = TypeVar("_F", bound=Callable[..., object])


def _op(fake: _F) -> _F:
    """The compiled op of a function's name and types, whose fake kernel that function becomes.

    The function makes outputs of the right shapes, dtypes and devices without computing them.
    """
    name = fake.__name__
    torch.library.register_fake(f"spikefuse::{name}")(fake)
    return cast(_F, getattr(_ops, name).default)


def _registered_kernels() -> dict[str, frozenset[str]]:
    """Names of the ops that have a kernel, by device type. Only a meta tensor needs none."""
    schemas = [schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("spikefuse::")]
    return {
        device: frozenset(
            name.removeprefix("spikefuse::")
            for name in schemas
            if torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())
        )
        for device in ("cpu", "cuda")
    }


# Read once, when the libraries are loaded: torch.compile cannot trace a question to the dispatcher.
_KERNELS: Final = _registered_kernels()


def check_backend(tensor: Tensor, op: str) -> None:
    """Raises an error in plain words for a device without a kernel; torch.compile can trace it.

    Raises:
        NotImplementedError: this build has no kernel of ``op`` for the device of ``tensor``.
    """
    device = tensor.device.type
    if device == "meta" or op in _KERNELS.get(device, ()):
        return
    raise NotImplementedError(
        f"spikefuse: {op} has no kernel for {device!r} in this build (see `spikefuse doctor`); "
        "move the tensors to the CPU"
    )


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of membrane potentials and their gradients for an I/O type: fp32, or fp64 for fp64.

    >>> accumulate_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def cpu_instruction_set() -> str:
    """The instruction set that the CPU kernels run with: "avx512", "avx2" or "default"."""
    return cast(str, _ops.cpu_instruction_set())


@_op
def lif_forward(
    z: Tensor, state: Tensor | None, decay: Tensor, threshold: Tensor, target: Tensor | None, reset: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Runs all T steps of a LIF layer: spikes, v, state, loss, mismatches."""
    acc = accumulate_dtype(z.dtype)
    return (
        z.new_empty(z.shape),
        z.new_empty(z.shape, dtype=acc),
        z.new_empty(z.shape[1:], dtype=acc),
        z.new_empty((), dtype=acc),
        z.new_empty((), dtype=torch.int64),
    )


@_op
def lif_backward(
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    grad_state: Tensor | None,
    grad_loss: Tensor | None,
    v: Tensor,
    state: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    target: Tensor | None,
    dtype: torch.dtype,
    reset: int,
    detach_reset: bool,
    surrogate: int,
    slope: float,
    parameter_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Runs the reverse scan: gradients of z, of the initial state, and per sample of decay and threshold."""
    acc = accumulate_dtype(dtype)
    _, samples, neurons = v.shape
    per_sample = (samples if parameter_gradients else 0, neurons)
    return (
        v.new_empty(v.shape, dtype=dtype),
        v.new_empty((samples, neurons), dtype=acc),
        v.new_empty(per_sample, dtype=acc),
        v.new_empty(per_sample, dtype=acc),
    )


@_op
def pack_spikes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packs ``x [R, N]``: words ``[R, W]``, its number of spikes, and of elements that are neither 0 nor 1."""
    rows, neurons = x.shape
    words = x.new_empty((rows, (neurons + 31) // 32), dtype=torch.int32)
    return words, x.new_empty((), dtype=torch.int64), x.new_empty((), dtype=torch.int64)


@_op
def unpack_spikes(words: Tensor, neurons: int, dtype: torch.dtype) -> Tensor:
    """Unpacks words ``[R, W]`` to the dense ``[R, N]``."""
    return words.new_empty((words.shape[0], neurons), dtype=dtype)


@_op
def poisson_encode(rates: Tensor, steps: int, seed: int, offset: int) -> Tensor:
    """Draws words ``[T, B, W]`` of Poisson spikes at ``rates [B, N]``."""
    samples, neurons = rates.shape
    return rates.new_empty((steps, samples, (neurons + 31) // 32), dtype=torch.int32)


@_op
def spike_matmul(words: Tensor, weight: Tensor) -> Tensor:
    """Computes ``X W``: words ``[R, W]`` of X ``[R, N]`` times ``weight [N, M]``."""
    return weight.new_empty((words.shape[0], weight.shape[1]))


@_op
def spike_matmul_transposed(words: Tensor, grad: Tensor, neurons: int) -> Tensor:
    """Computes ``X^T g``: words ``[R, W]`` of X ``[R, N]``, transposed, times ``grad [R, M]``."""
    return grad.new_empty((neurons, grad.shape[1]))


@_op
def lif_linear_forward(
    words: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    reset: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiplies words ``[T, B, W]`` by ``weight [N, M]`` and runs the LIF recursion: spikes, v, state."""
    steps, samples, _ = words.shape
    outputs = (steps, samples, weight.shape[1])
    return weight.new_empty(outputs), weight.new_empty(outputs), weight.new_empty(outputs[1:])


@_op
def online_batch_(
    input: Tensor,
    target: Tensor,
    weights: Sequence[Tensor],
    decay: float,
    threshold: float,
    trace: int,
    trace_divisor: float,
    v_clamp: bool,
    surrogate: int,
    slope: float,
    optimizer: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
    gathered: Tensor | None = None,
    exchange: int = 0,
    rank: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Learns from one batch, weights changed in place: summed loss, mismatches, spike counts."""
    # weights[0] may be one rank's slice; the layer above knows all of its neurons
    neurons = sum(w.shape[1] for w in weights[1:]) + weights[-1].shape[0]
    return (
        input.new_empty((), dtype=torch.float64),
        input.new_empty((), dtype=torch.int64),
        input.new_empty((input.shape[1], neurons), dtype=torch.int32),
    )
