"""Lyon's passive model of the ear: a cascade of filters, half-wave rectification, automatic gain control, differences.

Source: M. Slaney, Auditory Toolbox (``LyonPassiveEar``), after R. F. Lyon, "A computational model of filtering,
detection, and compression in the cochlea" (ICASSP 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spikefuse._io.optional import require
from spikefuse.audio.gain import GainControl

Array = NDArray[np.float64]

_BREAK_HZ: Final = 1000.0
_ZERO_OFFSET: Final = 1.5
_SHARPNESS: Final = 5.0
_PREEMPHASIS_CORNER_HZ: Final = 300.0
_LOW_PASS_BLOCKS: Final = 3
_FRONT: Final = 2
_SAMPLES_AT_ONCE: Final = 1 << 18
"""Samples of all signals together that are filtered in one go: about 90 MB of channels."""


@dataclass(frozen=True)
class LyonEar:
    """The ear as a function: sound in, firing rates of the auditory nerve's channels out, highest frequency first.

    Every channel is a stage of one cascade of second-order filters, so a stage's output is what the stages before it
    let through. It is half-wave rectified, compressed by four stages of automatic gain control that also look at the
    neighbouring channels, reduced by the channel below it, smoothed, and kept once in ``decimation`` samples. The ear
    is causal: a frame depends on no sample after its last.

    Attributes:
        sample_rate: of the sound, in Hz.
        decimation: samples for each frame.
        ear_q: quality of the filters: centre frequency over bandwidth, far above 1 kHz.
        step_factor: distance of neighbouring channels, as a share of their bandwidth.

    Raises:
        ValueError: a setting outside its range: ``sample_rate`` > 0, ``decimation`` >= 1, ``ear_q`` > 0.5,
            ``step_factor`` > 0; or settings that leave fewer than two channels.
        TypeError: ``sample_rate`` or ``decimation`` is no whole number.
        ImportError: scipy is not installed (when called).

    Source:
        ``LyonPassiveEar(x, sample_rate, decimation, ear_q, step_factor)`` of the Auditory Toolbox. The defaults are
        those of Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621: 39 channels, 1,250 frames a second.

    Example:
        >>> ear = LyonEar()
        >>> ear.channels, ear.frame_rate, ear.centre_frequencies[[0, -1]].round(1).tolist()
        (39, 1250.0, [5680.4, 62.9])
        >>> tone = np.sin(2 * np.pi * 1000 / 12_500 * np.arange(2500))
        >>> loudest = ear(tone).mean(axis=0).argmax()
        >>> float(ear.centre_frequencies[loudest].round())
        905.0
    """

    sample_rate: int = 12_500
    decimation: int = 10
    ear_q: float = 8.0
    step_factor: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("sample_rate", self.sample_rate), ("decimation", self.decimation)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"LyonEar: expected {name} as an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"LyonEar: expected {name} >= 1, got {value}")
        for name, number, lowest in (("ear_q", self.ear_q, 0.5), ("step_factor", self.step_factor, 0.0)):
            if not lowest < number < math.inf:
                raise ValueError(f"LyonEar: expected a finite {name} > {lowest:g}, got {number}")
        if self.channels < 2:
            raise ValueError(
                f"LyonEar: expected settings for at least 2 channels, got {self.channels} from sample_rate "
                f"{self.sample_rate} Hz, ear_q {self.ear_q} and step_factor {self.step_factor}"
            )

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.decimation

    @property
    def channels(self) -> int:
        """Number of channels N: ``floor(Q * ln(g(top) / g(low)) / s)`` with ``g(f) = f + sqrt(f^2 + 1000^2)``."""
        top = self._top_frequency
        low = _BREAK_HZ / math.sqrt(4 * self.ear_q**2 - 1)
        if top <= low:
            return 0
        return math.floor(self.ear_q * math.log(_warped(top) / _warped(low)) / self.step_factor)

    @property
    def centre_frequencies(self) -> Array:
        """Centre frequency of each channel in Hz, float64 ``[channels]``, highest first."""
        ratio = np.exp(np.arange(1, self.channels + 1) * self.step_factor / self.ear_q)
        top = _warped(self._top_frequency)
        frequencies: Array = (top / ratio - ratio * _BREAK_HZ**2 / top) / 2
        return frequencies

    @property
    def _top_frequency(self) -> float:
        nyquist = self.sample_rate / 2
        return nyquist - 0.5 * self.step_factor * float(self._bandwidth(nyquist))

    def _bandwidth(self, frequency: Any) -> Any:
        return np.sqrt(np.square(frequency) + _BREAK_HZ**2) / self.ear_q

    def filters(self) -> Array:
        """The cascade as second-order sections, float64 ``[2 + channels, 6]``: b0, b1, b2, 1, a1, a2.

        The first two are the outer and middle ear: a pre-emphasis with a corner at 300 Hz and a band pass.

        Example:
            >>> LyonEar().filters().shape
            (41, 6)
        """
        centre = self.centre_frequencies
        width = self._bandwidth(centre)
        zero = centre + _ZERO_OFFSET * self.step_factor * width
        zeros = self._section(zero, _SHARPNESS * zero / width)
        poles = self._section(centre, centre / width)
        # The Auditory Toolbox has no stage in front of the first to take its gain from, and copies the second's.
        gain = np.concatenate([centre[:1] / centre[1:2], centre[:-1] / centre[1:]])
        stages = np.hstack([zeros * (gain * poles.sum(axis=1) / zeros.sum(axis=1))[:, None], poles])

        corner = math.exp(-2 * math.pi * _PREEMPHASIS_CORNER_HZ / self.sample_rate)
        outer = np.array([0.0, 1.0, -corner, 1.0, 0.0, 0.0])
        middle = np.array([1.0, 0.0, -1.0, *self._section(np.array([self._top_frequency]), centre[:1] / width[:1])[0]])
        for section in (outer, middle):
            # At a quarter of the sample rate, z is the imaginary unit.
            section[:3] /= abs(np.polyval(section[:3], 1j) / np.polyval(section[3:], 1j))
        return np.vstack([outer, middle, stages])

    def _section(self, frequency: Array, quality: Array) -> Array:
        """Two conjugate roots: [1, -2 rho cos(theta), rho^2] for each frequency and quality."""
        rho = np.exp(-np.pi * frequency / (self.sample_rate * quality))
        theta = 2 * np.pi * frequency / self.sample_rate * np.sqrt(1 - 1 / (4 * quality**2))
        return np.stack([np.ones_like(rho), -2 * rho * np.cos(theta), rho**2], axis=1)

    def __call__(self, signals: NDArray[Any]) -> Array:
        """Runs the ear over signals of equal length.

        Signals of other lengths may be padded at the end: frames before the padding do not change. Time and memory
        grow with the length: the result takes ``8 * channels / decimation`` bytes a sample, everything else is bounded.

        Args:
            signals: ``[time]`` or ``[B, time]`` of real numbers, full scale ±1.

        Returns:
            float64 ``[frames, channels]`` or ``[B, frames, channels]``, >= 0, ``frames = time // decimation``.

        Raises:
            ValueError: another number of dimensions, or NaN or infinity.
            TypeError: signals that are not real numbers.
            ImportError: scipy is not installed.

        Example:
            >>> LyonEar()(np.zeros((3, 105))).shape
            (3, 10, 39)
        """
        signals = np.asarray(signals)
        if signals.dtype.kind not in "fiu":
            raise TypeError(f"LyonEar: expected signals of real numbers, got {signals.dtype}")
        if signals.ndim not in (1, 2):
            raise ValueError(f"LyonEar: expected signals of shape [time] or [B, time], got {list(signals.shape)}")
        signals = signals.astype(np.float64)
        if not np.isfinite(signals).all():
            raise ValueError("LyonEar: expected finite signals, got NaN or infinity")
        rates = self._run(np.atleast_2d(signals))
        return rates[0] if signals.ndim == 1 else rates

    def _run(self, signals: Array) -> Array:
        batch, samples = signals.shape
        frames = samples // self.decimation
        rates = np.empty((batch, frames, self.channels))
        if rates.size == 0:
            return rates
        lfilter = require("scipy.signal", "scipy", "Lyon's ear").lfilter
        sections = self.filters()
        states = np.zeros((len(sections), batch, 2))
        gain = GainControl(self.sample_rate, len(sections), batch)
        decay = math.exp(-1 / (_LOW_PASS_BLOCKS * self.decimation))
        low_pass = [0.0, 0.0, (1 - decay) ** 2], [1.0, -2 * decay, decay**2]
        smoothed = np.zeros((self.channels, batch, 2))

        step = max(1, _SAMPLES_AT_ONCE // (batch * self.decimation))
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            sound = signals[:, start * self.decimation : stop * self.decimation]
            x = np.empty((sound.shape[1], len(sections), batch))
            for i, section in enumerate(sections):
                sound, states[i] = lfilter(section[:3], section[3:], sound, zi=states[i])
                np.maximum(sound.T, 0, out=x[:, i])
            # The Toolbox does so to the first sample of each block, "to make inversion easier".
            x[:: self.decimation, :_FRONT] = 0
            gain(x)
            for i in range(self.channels):
                y = np.maximum(x[:, i + _FRONT - 1] - x[:, i + _FRONT], 0).T
                if self.decimation > 1:
                    y, smoothed[i] = lfilter(*low_pass, y, zi=smoothed[i])
                rates[:, start:stop, i] = y[:, self.decimation - 1 :: self.decimation]
        return rates


def _warped(frequency: float) -> float:
    """Frequency on the scale on which the channels are evenly spaced: its logarithm, times ear_q."""
    return frequency + math.hypot(frequency, _BREAK_HZ)
