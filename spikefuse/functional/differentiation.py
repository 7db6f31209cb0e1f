"""The rule for gradients of gradients: fused backward passes refuse them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor

_Backward = TypeVar("_Backward", bound=Callable[..., tuple[Tensor | None, ...]])

_REFUSAL: Final = (
    b"spikefuse: expected first derivatives only, got a second one: the fused backward of LIF layers, spike products "
    b"and their distributed forms is itself not differentiable. spikefuse.reference has the same functions in plain "
    b"PyTorch, which can be differentiated any number of times"
)


def first_derivative_only(backward: _Backward) -> _Backward:
    """Decorates the ``backward`` of a ``torch.autograd.Function``: differentiating its result raises a RuntimeError.

    ``torch.autograd.function.once_differentiable`` raises only where an incoming gradient requires a gradient. The
    gradient of ``spikes.sum()`` requires none, so a gradient penalty would be partial, without an error. Here every
    result refuses when the caller asks for ``create_graph=True``.

    Example:
        >>> import spikefuse
        >>> z = torch.rand(3, 1, 2, requires_grad=True)
        >>> spikes = spikefuse.functional.lif(z, leak=0.1).spikes
        >>> (grad,) = torch.autograd.grad(spikes.sum(), z, create_graph=True)
        >>> grad.square().sum().backward()
        Traceback (most recent call last):
        ...
        RuntimeError: spikefuse: expected first derivatives only, got a second one: ...
    """

    @functools.wraps(backward)
    def refusing(ctx: torch.autograd.function.FunctionCtx, *grads: Any) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            results = backward(ctx, *grads)
        # AOTAutograd, and with it every backend of torch.compile but "eager", refuses second derivatives itself.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return results
        refuse = cast(
            "Callable[..., tuple[Tensor | None, ...]]", torch._C._functions.DelayedError(_REFUSAL, len(results))
        )
        return refuse(*(None if grad is None else grad.detach().requires_grad_() for grad in results))

    return cast("_Backward", refusing)
