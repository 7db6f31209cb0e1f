"""Surrogate derivatives: what stands in for ds/dv, the derivative of the spike, in the backward pass.

All are functions of ``x = v - threshold`` with one parameter, ``slope`` k > 0; a larger slope is a narrower curve. They
are evaluated without overflow for any x up to the largest float.

============== ===================================== =============================================
name           ds/dv                                 the same in other libraries
============== ===================================== =============================================
sigmoid        k * sigma(k x) * (1 - sigma(k x))     SpikingJelly ``Sigmoid(alpha=k)``; the paper's, k = 1
atan           (k / 2) / (1 + (pi / 2 * k * x)^2)    snnTorch ``atan(alpha=k)``, SpikingJelly ``ATan(alpha=k)``
fast_sigmoid   1 / (1 + k * abs(x))^2                snnTorch ``fast_sigmoid(slope=k)``
triangle       k * max(0, 1 - k * abs(x))            SpikingJelly ``PiecewiseQuadratic(alpha=k)``
============== ===================================== =============================================
"""

from __future__ import annotations

from typing import Final

SURROGATES: Final[dict[str, int]] = {"sigmoid": 0, "atan": 1, "fast_sigmoid": 2, "triangle": 3}
"""Names and the numbers by which the compiled ops know them (``enum class Surrogate``)."""


def surrogate_id(name: str) -> int:
    """The number of a surrogate.

    Raises:
        ValueError: there is none of that name.

    >>> surrogate_id("atan")
    1
    """
    try:
        return SURROGATES[name]
    except (KeyError, TypeError):
        raise ValueError(f"surrogate: expected one of {', '.join(SURROGATES)}, got {name!r}") from None
