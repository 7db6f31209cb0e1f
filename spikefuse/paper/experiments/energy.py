"""Counts the arithmetic of a net for one sample, and its energy: synaptic operations against MACs.

A spike costs one accumulation for each neuron that it reaches; where there is none, nothing is added. An artificial net
multiplies and accumulates at every synapse. Energies are those of 32-bit floating point in 45 nm CMOS at 0.9 V: M.
Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, doi 10.1109/ISSCC.2014.6757323.

An estimate of arithmetic alone: neither side is charged for memory, which takes more energy than arithmetic in most
machines, nor for making the input (the Poisson draws, the ear), nor for comparisons (threshold, ReLU). The artificial
net is charged for inputs of zero, too.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from spikefuse.paper.experiments.jobs import ImageJob, Job

ADD_JOULES: Final = 0.9e-12
"""Of an addition, fp32, 45 nm."""

MULTIPLY_JOULES: Final = 3.7e-12
"""Energy of a multiplication, from the same source."""


@dataclasses.dataclass(frozen=True)
class Operations:
    """Arithmetic of one sample.

    Attributes:
        synops: synaptic operations: a weight is added because a spike came. One addition each.
        updates: of a membrane potential, one for each neuron and step: the leak's multiplication, and the addition of
            what came.
        macs: a weight is multiplied with an activation and added.

    Example:
        >>> f"{Operations(synops=1000, updates=100).joules:.3g} J, {Operations(macs=1000).joules:.3g} J"
        '1.36e-09 J, 4.6e-09 J'
    """

    synops: float = 0.0
    updates: float = 0.0
    macs: float = 0.0

    @property
    def joules(self) -> float:
        """Energy, in J."""
        return self.synops * ADD_JOULES + (self.updates + self.macs) * (MULTIPLY_JOULES + ADD_JOULES)


def spiking(layers: Sequence[int], rates: Sequence[float], steps: int) -> Operations:
    """Operations of a fully connected spiking net.

    Args:
        layers: neurons of its inputs and of each layer in turn, at least two numbers.
        rates: spikes per neuron and step of each but the last, whose spikes reach nothing.
        steps: T.

    Raises:
        ValueError: no layer, or not one rate for each but the last.

    Example:
        >>> spiking([100, 20, 10], [0.1, 0.5], steps=5)
        Operations(synops=1500.0, updates=150, macs=0.0)
    """
    if len(layers) < 2 or len(rates) != len(layers) - 1:
        raise ValueError(f"spiking: expected rates of all layers but the last of {list(layers)}, got {list(rates)}")
    reached = zip(layers, rates, layers[1:], strict=False)
    return Operations(
        synops=math.fsum(neurons * rate * steps * next_ for neurons, rate, next_ in reached),
        updates=sum(layers[1:]) * steps,
    )


def artificial(layers: Sequence[int]) -> Operations:
    """Operations of a fully connected artificial net.

    Args:
        layers: as in :func:`spiking`.

    Example:
        >>> artificial([784, 196, 784]).macs
        307328
    """
    return Operations(macs=sum(a * b for a, b in itertools.pairwise(layers)))


def measures(job: Job, results: Mapping[str, Any]) -> dict[str, float] | None:
    """Counts the operations of a job's net for one test sample.

    Args:
        job: of any kind.
        results: its "results", whose firing rates on test samples are used.

    Returns:
        "microjoules", and "operations", which are synops or MACs; None where the rates were not measured.

    Example:
        >>> rates = {"input_rate": 0.04, "hidden_rate": 0.25}
        >>> {name: round(value, 3) for name, value in measures(ImageJob(), {"test": rates}).items()}
        {'microjoules': 0.669, 'operations': 668438.4}
        >>> round(measures(ImageJob(method="ann"), {"test": {}})["microjoules"], 3)
        1.414
    """
    if job.method == "ann":
        operations = artificial(job.layers)
    else:
        names = (
            ("input_rate", "hidden_rate") if isinstance(job, ImageJob) else ("input_rate", "hidden_rate", "output_rate")
        )
        rates = [results.get("test", {}).get(name) for name in names]
        if None in rates:
            return None
        operations = spiking(job.layers, rates, job.steps)
    return {"microjoules": operations.joules * 1e6, "operations": operations.synops + operations.macs}
