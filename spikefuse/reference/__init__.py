"""Every op in plain PyTorch, written to be read: the parity tests' oracle, and the paper's equations in one place.

Nothing here is fast. Equation numbers are those of Roy, Panda & Roy (2019).
"""

from __future__ import annotations

from spikefuse.reference.lif import lif, masked_error, masked_loss
from spikefuse.reference.online import online_step
from spikefuse.reference.packing import pack, unpack
from spikefuse.reference.poisson import philox4x32, poisson_encode
from spikefuse.reference.surrogate import surrogate_derivative

__all__ = [
    "lif",
    "masked_error",
    "masked_loss",
    "online_step",
    "pack",
    "philox4x32",
    "poisson_encode",
    "surrogate_derivative",
    "unpack",
]
