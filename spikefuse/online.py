"""Online learning: weights change at every time step (Roy, Panda & Roy 2019).

One call of :func:`online_batch_` takes a batch through all T time steps; each step goes forward with the weights that
the step before left, forms the masked error, and updates every layer from traces. A trace per synapse,
``[B, out, in]``, is never stored: the gated one is a sum over the window since the neuron's last spike, and a neuron's
whole trace state is the age of that spike.

Autograd through :class:`spikefuse.LIFLinear` is not this rule, not even with the weights held: it sends a layer's error
down through the recursion of every layer (full backpropagation through time), the rule sends the error of the same time
step only (eqs 14-15). The two agree for a single layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from spikefuse import functional, ops
from spikefuse._renamed import renamed
from spikefuse.packed import PackedSpikes
from spikefuse.surrogate import surrogate_id

__getattr__ = renamed(__name__, online_step_="online_batch_")

TRACES: Final[dict[str, int]] = {"shared": 0, "gated": 1}
"""The two readings of the trace; the numbers are ``enum class Trace``'s."""

OPTIMIZERS: Final[dict[str, int]] = {"adam": 0, "sgd": 1}
"""The numbers are ``enum class Optimizer``'s."""

WEIGHT_DECAY_MODES: Final = ("decoupled", "l2")


@dataclasses.dataclass(frozen=True)
class OnlineRule:
    """Settings of the online rule.

    Args:
        leak: per step, 0 to 1; v decays by ``1 - leak``.
        threshold: membrane threshold, > 0.
        trace: "gated" is the paper's text: a trace per synapse, zeroed for each neuron that spikes. "shared" is the
            authors' released code: a trace per input, scaled by ``1 - spikes / D`` after each step.
        trace_divisor: D of the shared trace; None for each layer's fan-in.
        v_clamp: v never exceeds the threshold before the error is formed; None means True for "shared", False for
            "gated".
        optimizer: "adam" with moments that start from zero in every batch and run over its time steps, or "sgd".
        lr: learning rate, >= 0.
        betas, eps: Adam's; eps > 0.
        weight_decay: >= 0.
        weight_decay_mode: "decoupled": ``w <- (1 - lr * weight_decay) * w - update``; "l2": ``weight_decay * w`` is
            added to the gradient.
        surrogate, slope: see :mod:`spikefuse.surrogate`.

    Raises:
        ValueError: a name or number outside its range.

    Example:
        >>> OnlineRule(trace="gated", weight_decay=1e-4).clamps
        False
    """

    leak: float = 0.1
    threshold: float = 1.0
    trace: str = "shared"
    trace_divisor: float | None = None
    v_clamp: bool | None = None
    optimizer: str = "adam"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-7
    weight_decay: float = 0.0
    weight_decay_mode: str = "decoupled"
    surrogate: str = "sigmoid"
    slope: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name, allowed in (
            ("trace", tuple(TRACES)),
            ("optimizer", tuple(OPTIMIZERS)),
            ("weight_decay_mode", WEIGHT_DECAY_MODES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"OnlineRule: expected {name} as one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        surrogate_id(self.surrogate)
        checks = {
            "leak": 0 <= self.leak <= 1,
            "threshold": 0 < self.threshold < math.inf,
            "trace_divisor": self.trace_divisor is None or 0 < self.trace_divisor < math.inf,
            "lr": 0 <= self.lr < math.inf,
            "betas": len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "eps": 0 < self.eps < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "slope": 0 < self.slope < math.inf,
        }
        for name, fits in checks.items():
            if not fits:
                raise ValueError(f"OnlineRule: {name} is outside its range, got {getattr(self, name)!r}")

    @property
    def clamps(self) -> bool:
        """True if v is clamped to the threshold: v_clamp, or the default of the trace."""
        return self.trace == "shared" if self.v_clamp is None else self.v_clamp

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON.

        >>> OnlineRule.from_dict(OnlineRule(lr=0.1).to_dict()).lr
        0.1
        """
        return {**dataclasses.asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> OnlineRule:
        """The rule of :meth:`to_dict`.

        Raises:
            ValueError: an unknown name, or a value outside its range.
        """
        unknown = set(settings) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"OnlineRule: unknown settings {', '.join(sorted(unknown))}")
        return cls(**settings)


@dataclasses.dataclass(frozen=True)
class OnlineStats:
    """Report on one batch of online learning."""

    loss: float
    """1/2 sum E^2 over time and outputs, mean over the batch (eq 8), each step with the weights it had."""
    spike_counts: list[Tensor]
    """int32 ``[B, n]`` for each layer, summed over time."""
    error_zeros: float
    """Share of zeros in the mask of E, 0 to 1."""
    steps: int
    """T."""

    @property
    def firing_rates(self) -> list[float]:
        """Spikes per neuron and step of each layer, 0 to 1."""
        return [float(c.sum()) / max(c.numel() * self.steps, 1) for c in self.spike_counts]


def online_batch_(
    weights: Sequence[Tensor], inputs: PackedSpikes | Tensor, targets: PackedSpikes | Tensor, rule: OnlineRule
) -> OnlineStats:
    """Learns from one batch, updating ``weights`` in place at each of its T time steps; one compiled call.

    Each step: forward with the current weights (eqs 1-2), masked error of the output (eqs 5-7), errors of the hidden
    layers from the same step's (eqs 13-15), gradient from the traces (eqs 10-12, 16-17), update. All gradients of a
    step use the weights from before its update. Sums run in a fixed order, so the result is the same for any number of
    threads. The calling thread keeps a batch's working memory (moments, traces, errors) for its next batch.

    Args:
        weights: ``[out, in]`` for each layer, first layer first, fp32 or fp64; fastest stored input-major, with strides
            (1, out), as :class:`spikefuse.LIFLinear` does. Not differentiated.
        inputs: spikes ``[T, B, in]``, packed or dense.
        targets: spikes ``[T, B, out]`` for the last layer, packed or dense.
        rule: the settings.

    Raises:
        TypeError: weights that are no list of tensors or have an unsupported dtype.
        ValueError: shapes or devices that do not fit, weights that are not finite, that share memory or that hold an
            element twice (an expanded tensor); nothing has been changed then.
        FloatingPointError: the update left weights that are not finite (a learning rate far too large).

    Example:
        >>> import torch
        >>> from spikefuse import online
        >>> weights = [torch.rand(4, 8) - 0.3, torch.rand(8, 4) - 0.3]
        >>> spikes = (torch.rand(15, 2, 8) < 0.5).float()
        >>> stats = online.online_batch_(weights, spikes, spikes, online.OnlineRule())
        >>> [c.shape for c in stats.spike_counts]
        [torch.Size([2, 4]), torch.Size([2, 8])]
    """
    return learn(weights, *check_batch(weights, inputs, targets), rule)


class Exchange(NamedTuple):
    """How one rank of several takes part in a batch; see :mod:`spikefuse.distributed`."""

    gathered: Tensor
    """int32 ``[ranks, words of the longest slice, B]``, the spikes of a step by rank."""
    address: int
    """Of the C function that fills in the others'."""
    rank: int
    """Whose place in ``gathered`` is this process's."""


def check_batch(
    weights: Sequence[Tensor],
    inputs: PackedSpikes | Tensor,
    targets: PackedSpikes | Tensor,
    neurons: int | None = None,
) -> tuple[PackedSpikes, PackedSpikes]:
    """The inputs and targets of :func:`online_batch_`, packed, when all arguments fit.

    Args:
        weights, inputs, targets: as in :func:`online_batch_`.
        neurons: of the first layer, where ``weights[0]`` has only a slice of them.

    Raises:
        TypeError, ValueError: as :func:`online_batch_`.
    """
    inputs, targets = _as_packed("inputs", inputs), _as_packed("targets", targets)
    _check_weights("online_batch_", weights, inputs, neurons)
    expected = [*inputs.shape[:2], weights[-1].shape[0]]
    if list(targets.shape) != expected:
        raise ValueError(f"online_batch_: expected targets of shape {expected}, got {list(targets.shape)}")
    if targets.device != inputs.device:
        raise ValueError(f"online_batch_: expected targets on {inputs.device}, got them on {targets.device}")
    _check_memory(weights)
    if not bool(_all_finite(weights)):
        raise ValueError("online_batch_: expected finite weights, got NaN or infinity")
    ops.check_backend(inputs.words, "online_batch_")
    return inputs, targets


def learn(
    weights: Sequence[Tensor],
    inputs: PackedSpikes,
    targets: PackedSpikes,
    rule: OnlineRule,
    exchange: Exchange | None = None,
) -> OnlineStats:
    """:func:`online_batch_` with arguments that :func:`check_batch` has passed.

    Raises:
        FloatingPointError: the update left weights that are not finite.
        RuntimeError: the exchange failed.
    """
    with torch.no_grad():
        # The dispatcher does not count this op's changes; autograd must notice them, also where the op fails half-way.
        torch.autograd.graph.increment_version(w for w in weights if not w.is_inference())
        loss, mismatches, counts = ops.online_batch_(
            inputs.words,
            targets.words,
            [w.detach() for w in weights],
            1 - rule.leak,
            rule.threshold,
            TRACES[rule.trace],
            rule.trace_divisor or 0.0,
            rule.clamps,
            surrogate_id(rule.surrogate),
            rule.slope,
            OPTIMIZERS[rule.optimizer],
            rule.lr,
            *rule.betas,
            rule.eps,
            rule.weight_decay,
            rule.weight_decay_mode == "decoupled",
            *(exchange or (None, 0, 0)),
        )
    # One tensor, so that a GPU is waited for once.
    known = torch.stack([loss, mismatches.double(), _all_finite(weights).double()])
    total_loss, total_mismatches, finite = known.tolist()
    if not finite:
        raise FloatingPointError(f"online_batch_: the weights became NaN or infinite at lr = {rule.lr}")
    samples, elements = inputs.shape[1], targets.shape.numel()
    return OnlineStats(
        loss=total_loss / max(samples, 1),
        spike_counts=list(counts.split([*(w.shape[1] for w in weights[1:]), weights[-1].shape[0]], dim=1)),
        error_zeros=1 - total_mismatches / elements if elements else 1.0,
        steps=inputs.shape[0],
    )


def forward(weights: Sequence[Tensor], inputs: PackedSpikes | Tensor, rule: OnlineRule) -> list[PackedSpikes]:
    """Spikes of every layer with the weights held, ``[T, B, n]`` each.

    Clamping v changes no spike, so both readings of the rule share this.

    Args:
        weights, inputs, rule: as in :func:`online_batch_`.

    Raises:
        TypeError, ValueError: as :func:`online_batch_`.

    Example:
        >>> import torch
        >>> from spikefuse import online
        >>> online.forward([torch.eye(3)], torch.ones(2, 1, 3), online.OnlineRule())
        [PackedSpikes(shape=(2, 1, 3), device=cpu)]
    """
    x = _as_packed("inputs", inputs)
    _check_weights("forward", weights, x)
    layers = []
    with torch.no_grad():
        for weight in weights:
            z = functional.spike_linear(x, weight)
            x = PackedSpikes.pack(functional.lif(z, leak=rule.leak, threshold=rule.threshold).spikes)
            layers.append(x)
    return layers


def _as_packed(name: str, spikes: PackedSpikes | Tensor) -> PackedSpikes:
    packed = spikes if isinstance(spikes, PackedSpikes) else PackedSpikes.pack(spikes)
    if len(packed.shape) != 3:
        raise ValueError(f"expected {name} of shape [T, B, N], got {list(packed.shape)}")
    return packed


def _check_weights(
    caller: str, weights: Sequence[Tensor], inputs: PackedSpikes, first_neurons: int | None = None
) -> None:
    if isinstance(weights, Tensor) or not weights or not all(isinstance(w, Tensor) for w in weights):
        raise TypeError(f"{caller}: expected weights as a non-empty list of tensors, got {type(weights).__name__}")
    fan_in = inputs.shape[2]
    for i, w in enumerate(weights):
        if w.dim() != 2 or w.shape[1] != fan_in or w.shape[0] == 0 or fan_in == 0:
            raise ValueError(f"{caller}: expected weights[{i}] of shape [out, {fan_in}], got {list(w.shape)}")
        if w.dtype not in (torch.float32, torch.float64) or w.dtype != weights[0].dtype:
            raise TypeError(f"{caller}: expected weights of one dtype, float32 or float64, got {w.dtype}")
        if w.device != inputs.device:
            raise ValueError(f"{caller}: expected weights[{i}] on {inputs.device}, got it on {w.device}")
        fan_in = w.shape[0] if i or first_neurons is None else first_neurons


def _check_memory(weights: Sequence[Tensor]) -> None:
    """Refuses weights of which two elements lie at one address: each element gets an update of its own.

    Tied weights, such as ``[V, V.t()]``, would keep the update of one of them.
    """
    for i, w in enumerate(weights):
        if _repeats_an_element(w):
            raise ValueError(
                f"online_batch_: expected weights[{i}] with memory of its own for each element, got shape "
                f"{list(w.shape)} with strides {w.stride()}; clone() gives it that"
            )
        for j, other in enumerate(weights[:i]):
            if _share_memory(other, w):
                raise ValueError(
                    f"online_batch_: expected weights that share no memory, got weights[{j}] and weights[{i}] that do; "
                    "tied weights cannot be learned online, clone() unties them"
                )


def _repeats_an_element(w: Tensor) -> bool:
    """True where two indices of a matrix lead to one address: the smallest multiple of both strides is in reach."""
    (rows, columns), (down, right) = w.shape, w.stride()
    if down == right == 0:
        return rows * columns > 1
    common = math.gcd(down, right)
    return right // common < rows and down // common < columns


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """True where an element of one matrix lies in the other: exact, also for interleaved views of one buffer."""
    size = a.element_size()
    spans = [1 + sum((n - 1) * s for n, s in zip(w.shape, w.stride(), strict=True)) for w in (a, b)]
    starts = [w.data_ptr() for w in (a, b)]
    first, last = min(starts), max(start + span * size for start, span in zip(starts, spans, strict=True))
    if max(starts) >= min(start + span * size for start, span in zip(starts, spans, strict=True)):
        return False
    if (starts[1] - starts[0]) % size:
        return True
    taken = torch.zeros((last - first) // size, dtype=torch.bool)
    in_a, in_b = (
        taken.as_strided(w.shape, w.stride(), (start - first) // size) for w, start in zip((a, b), starts, strict=True)
    )
    in_a.fill_(True)
    return bool(in_b.any())


def _all_finite(weights: Sequence[Tensor]) -> Tensor:
    # A sum is NaN or infinite where an element is, and reads each weight once.
    return torch.stack([w.detach().sum() for w in weights]).isfinite().all()
