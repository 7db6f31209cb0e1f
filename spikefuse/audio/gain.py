"""The ear's automatic gain control: four stages that hold each channel and its neighbours near a target."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_TARGETS: Final = (0.0032, 0.0016, 0.0008, 0.0004)
_TIME_CONSTANTS_S: Final = (0.64, 0.16, 0.04, 0.01)
_STAGES: Final = len(_TARGETS)
_LARGEST_STATE: Final = 0.9


class GainControl:
    """Four stages in a row, each a recursion over samples with a state for each channel; states persist over calls.

    ``out = in * (1 - state)``, then ``state = min(0.9, out * eps / target + (1 - eps) / 3 * (left + state + right))``
    with the states of the neighbouring channels before the update, a channel at the edge being its own neighbour, and
    ``eps = 1 - exp(-1 / (tau * sample_rate))``.

    Args:
        sample_rate: in Hz.
        channels: at least 2.
        batch: number of signals.

    Example:
        >>> x = np.ones((3000, 2, 1))
        >>> GainControl(1000, 2, 1)(x)
        >>> bool(x[0, 0, 0] > 0.9), bool(x[-1, 0, 0] < 1e-3)
        (True, True)
    """

    def __init__(self, sample_rate: int, channels: int, batch: int) -> None:
        decay = np.exp(-1 / (np.array(_TIME_CONSTANTS_S) * sample_rate)).reshape(_STAGES, 1, 1)
        drive = (1 - decay) / np.array(_TARGETS).reshape(_STAGES, 1, 1)
        # The edge rows hold copies of the first and the last channel.
        states = np.zeros((_STAGES, channels + 2, batch))
        self._inputs = np.zeros((_STAGES, channels, batch))
        scratch = np.empty((2, _STAGES, channels, batch))
        self._views = {}
        for first in range(_STAGES):
            for end in range(first + 1, _STAGES + 1):
                stages = slice(first, end)
                self._views[first, end] = (
                    self._inputs[stages],
                    scratch[0, stages],
                    scratch[1, stages],
                    states[stages, :-2],
                    states[stages, 1:-1],
                    states[stages, 2:],
                    states[stages, :: channels + 1],
                    states[stages, 1:-1][:, :: channels - 1],
                    drive[stages],
                    decay[stages] / 3,
                    self._inputs[first + 1 : end + 1],
                    scratch[0, first : min(end, _STAGES - 1)],
                )
        self._last = scratch[0, -1]

    def __call__(self, x: NDArray[np.float64]) -> None:
        """Compresses ``x``, float64 ``[time, channels, batch]`` and >= 0, in place.

        At any tick stage k is at the k-th sample before that of the first stage, so one call of numpy serves all four
        stages; what each stage computes is what it would compute alone.
        """
        samples = len(x)
        for tick in range(samples + _STAGES - 1):
            first, end = max(0, tick - samples + 1), min(_STAGES, tick + 1)
            inputs, out, acc, left, state, right, edges, borders, drive, decay, passed_on, given = self._views[
                first, end
            ]
            if first == 0:
                self._inputs[0] = x[tick]
            np.subtract(1, state, out=out)
            np.multiply(out, inputs, out=out)
            np.add(left, state, out=acc)
            np.add(acc, right, out=acc)
            np.multiply(acc, decay, out=acc)
            np.multiply(out, drive, out=state)
            np.add(state, acc, out=state)
            np.minimum(state, _LARGEST_STATE, out=state)
            edges[...] = borders
            passed_on[...] = given
            if end == _STAGES:
                x[tick - _STAGES + 1] = self._last
