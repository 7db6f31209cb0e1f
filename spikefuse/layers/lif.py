"""LIF neurons without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from spikefuse import functional
from spikefuse.functional.lif import MaskedLossOutput
from spikefuse.packed import PackedSpikes


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons over all time steps; no weights of its own.

    ``v[t] = decay * v'[t-1] + z[t]``, a spike where ``v >= threshold``, v' = v after the reset. The module holds no
    state: what one call returns as ``state`` is what the next call takes.

    Args:
        leak, beta, tau: exactly one; the decay is ``1 - leak``, ``beta``, or ``1 - 1 / tau``. A number or a tensor
            ``[N]``, whose values the module copies.
        threshold: a number or a tensor ``[N]``, whose values the module copies.
        reset: "zero", "subtract" or "none".
        detach_reset: leave the reset out of the gradient.
        surrogate, slope: see :mod:`spikefuse.surrogate`.
        learn_beta: make the decay a parameter, ``beta``, clamped to [0, 1] where it is used.
        learn_threshold: make the threshold a parameter.
        batch_first: take and return ``[B, T, N]`` instead of ``[T, B, N]``.
        dtype: of a learned decay or threshold: float64, else float32 is used. Casting the module to a half type leaves
            both in float32, as the membrane is: a beta of 0.999 is no bf16 number.

    Raises:
        TypeError: not exactly one of leak, beta and tau.
        ValueError: a name or number that does not fit; a decay or threshold that requires grad and is not learned.

    Example:
        >>> import torch, spikefuse
        >>> spikes, state = spikefuse.LIF(leak=0.1)(torch.rand(15, 4, 10))
        >>> spikes.shape, state.shape
        (torch.Size([15, 4, 10]), torch.Size([4, 10]))
    """

    beta: float | Tensor
    threshold: float | Tensor

    def __init__(
        self,
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
        # One call on an empty input checks the names and numbers with the messages of the call itself.
        functional.lif(
            torch.empty(0, 0, 0),
            leak=0.0,
            threshold=threshold if not isinstance(threshold, Tensor) else 1.0,
            reset=reset,
            surrogate=surrogate,
            slope=slope,
        )
        decay = functional.decay_factor(leak, beta, tau)
        for name, value in (("decay", decay), ("threshold", threshold)):
            if isinstance(value, Tensor) and value.dim() > 1:
                raise ValueError(f"LIF: expected {name} as a scalar or of shape [N], got {list(value.shape)}")
        _check_no_graph({"leak": leak, "beta": beta, "tau": tau}, "learn_beta", learn_beta)
        _check_no_graph({"threshold": threshold}, "learn_threshold", learn_threshold)
        self._set_neuron_parameter("beta", decay, learn_beta, device, dtype)
        self._set_neuron_parameter("threshold", threshold, learn_threshold, device, dtype)
        # `reset_parameters` restores these, which do not move to the meta device with the module.
        self._initial = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in (("beta", decay), ("threshold", threshold))
        }
        self.reset = reset
        self.detach_reset = detach_reset
        self.surrogate = surrogate
        self.slope = float(slope)
        self.learn_beta = learn_beta
        self.batch_first = batch_first

    def _set_neuron_parameter(
        self,
        name: str,
        value: float | Tensor,
        learn: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """A plain number stays one; a tensor becomes a buffer; what is learned becomes a parameter."""
        if not learn and not isinstance(value, Tensor):
            setattr(self, name, float(value))
            return
        wide = dtype == torch.float64 or (isinstance(value, Tensor) and value.dtype == torch.float64)
        tensor = torch.as_tensor(value, dtype=torch.float64 if wide else torch.float32, device=device).detach().clone()
        if learn:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LIF:
        def keep_precision(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return tensor.to(applied.device) if applied.dtype in (torch.float16, torch.bfloat16) else applied

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]
        return self

    def reset_parameters(self) -> None:
        """Sets decay and threshold to what the module was made with."""
        with torch.no_grad():
            for name, value in self._initial.items():
                current = getattr(self, name)
                if isinstance(current, Tensor):
                    current.copy_(torch.as_tensor(value))

    def _decay(self) -> float | Tensor:
        return self.beta.clamp(0, 1) if self.learn_beta and isinstance(self.beta, Tensor) else self.beta

    def _threshold(self) -> float | Tensor:
        return self.threshold

    def forward(
        self, z: Tensor, state: Tensor | None = None, *, return_vmem: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Spikes and state of input currents.

        Args:
            z: ``[T, B, N]`` (``[B, T, N]`` with batch_first), fp32, bf16, fp16 or fp64.
            state: ``[B, N]`` from the call before, or None for zeros.
            return_vmem: also return v before the reset, ``[T, B, N]`` fp32.

        Returns:
            ``spikes, state`` or ``spikes, state, v``.

        Raises:
            TypeError, ValueError: as :func:`spikefuse.functional.lif`.
        """
        if self.batch_first and z.dim() == 3:
            z = z.transpose(0, 1)
        spikes, v, new_state = functional.lif(
            z,
            state,
            beta=self._decay(),
            threshold=self._threshold(),
            reset=self.reset,
            detach_reset=self.detach_reset,
            surrogate=self.surrogate,
            slope=self.slope,
        )
        if self.batch_first:
            spikes, v = spikes.transpose(0, 1), v.transpose(0, 1)
        return (spikes, new_state, v) if return_vmem else (spikes, new_state)

    def masked_loss(self, z: Tensor, target: PackedSpikes | Tensor, state: Tensor | None = None) -> MaskedLossOutput:
        """The masked membrane-potential loss of this layer as the output layer (eqs 5-8), fused with the recursion.

        Args:
            z: input currents, as in ``forward``.
            target: target spikes in the layout of z, packed or dense.
            state: as in ``forward``.

        Raises:
            TypeError, ValueError: as :func:`spikefuse.functional.lif_masked_loss`.

        Example:
            >>> lif = LIF(leak=0.1)
            >>> round(lif.masked_loss(torch.full((1, 1, 1), 0.4), torch.ones(1, 1, 1)).loss.item(), 2)
            0.18
        """
        if self.batch_first and z.dim() == 3 and len(target.shape) == 3:
            z, target = z.transpose(0, 1), target.transpose(0, 1)
        out = functional.lif_masked_loss(
            z,
            target,
            state,
            beta=self._decay(),
            threshold=self._threshold(),
            reset=self.reset,
            detach_reset=self.detach_reset,
            surrogate=self.surrogate,
            slope=self.slope,
        )
        return out._replace(spikes=out.spikes.transpose(0, 1)) if self.batch_first else out

    def extra_repr(self) -> str:
        """The settings that differ between layers."""
        return (
            f"beta={_describe(self.beta)}, threshold={_describe(self.threshold)}, reset={self.reset}, "
            f"detach_reset={self.detach_reset}, surrogate={self.surrogate}, slope={self.slope:g}, "
            f"batch_first={self.batch_first}"
        )


def _check_no_graph(given: Mapping[str, float | Tensor | None], learn: str, learned: bool) -> None:
    """Refuses a decay or threshold whose gradient a buffer would lose."""
    for name, value in given.items():
        if isinstance(value, Tensor) and value.requires_grad and not learned:
            raise ValueError(
                f"LIF: expected {name} as a number or a tensor without a gradient, got one that requires grad: the "
                f"layer keeps a copy, so nothing would train it. {learn}=True makes a parameter of the layer from its "
                f"value; spikefuse.functional.lif(z, {name}={name}) passes a gradient on to it"
            )


def _describe(value: float | Tensor) -> str:
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"[{value.numel()}]"
    if isinstance(value, Tensor) and value.is_meta:
        return "meta"
    return f"{float(value.detach() if isinstance(value, Tensor) else value):.4g}"
