"""Cochleagrams of a fixed size, the input rates of a spiking network, from sound of any rate and length."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import islice
from os import PathLike
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefuse._io.optional import require
from spikefuse.audio.cache import CochleagramCache
from spikefuse.audio.lyon import LyonEar

Wave = NDArray[np.float64]
"""One channel of sound, ``[time]``, full scale ±1."""
Map = NDArray[np.float32]
"""``[frames, channels]``."""

ALGORITHM_VERSION: Final = 1
"""Part of every cache key. Raise it whenever the same sound and settings give another cochleagram."""

SAMPLE_RATES: Final = (1_000, 384_000)
"""Lowest and highest sample rate of a recording in Hz."""

_LARGEST_SAMPLE: Final = 2.0
"""Resampling and codecs overshoot full scale by less than this; more is sound that was never scaled to it."""

_GROUP: Final = 128
_GROUP_SAMPLES: Final = 1 << 21
_RECORDINGS_AT_ONCE: Final = 512


class Loadable(Protocol):
    """Input of :meth:`Cochleagram.encode`: a ``spikefuse.data.Recording``, or any object with its ``load``."""

    def load(self) -> tuple[Tensor, int]:
        """Sound ``[channel, time]`` and its sample rate in Hz."""


class Cochleagram(nn.Module):
    """Turns sound into the firing rates that a fully connected network takes: a cochleagram, flattened.

    The sound is resampled to the ear's rate with a polyphase filter, heard by the ear, divided by its own maximum, and
    padded with zeros or cut to ``frames`` frames. Rates are in [0, 1]; times a maximum rate they are the probability of
    a spike per step (``spikefuse.functional.poisson_encode``). The ear adapts to loudness but is no linear filter, so
    full scale matters: floating-point sound is expected within ±1, and integers are divided by their type's full scale
    (uint8 after 128 was taken off).

    Contents of recordings and the result:

    * silence gives zeros, never NaN; clipped sound is taken as it is; a constant offset is filtered out by the ear;
    * more than one channel is an error unless ``stereo="mean"``;
    * nothing at all, or less than one frame, is an error, as are NaN, infinity, and floating-point samples beyond ±2;
    * a recording longer than ``max_seconds`` is an error, said before any work: only the first ``frames`` frames are
      kept, so ten minutes are most likely a recording that should have been cut up. Raise the limit to allow it.

    It has no parameters and no gradient. As a module it can stand in a ``Sequential``, given a ``sample_rate``. Work is
    done on the CPU in float64, and the result is put on the device of the input.

    Args:
        ear: the ear and its settings; the default gives 39 channels of 1,250 frames a second.
        sample_rate: of sound that comes without one, in Hz; None makes each call say it.
        frames: of each cochleagram; 1,500 of the default ear are 1.2 s.
        stereo: ``"refuse"``, or ``"mean"`` to average the channels.
        max_seconds: longest recording allowed.
        cache: folder of results, made when needed; None keeps none. Entries are found by the SHA-256 of the samples
            and all settings, written atomically, and checked when read, so processes may share a folder.

    Raises:
        TypeError: ``frames`` or ``sample_rate`` is not an int, or ``ear`` not a ``LyonEar``.
        ValueError: ``frames`` < 1, a sample rate that is refused, ``max_seconds`` not positive, or another word for
            ``stereo``.

    Example:
        >>> cochleagram = Cochleagram()
        >>> tone = torch.sin(2 * torch.pi * 1000 / 8000 * torch.arange(4000))
        >>> rates = cochleagram(tone, 8000)
        >>> rates.shape, rates.dtype, float(rates.max())
        (torch.Size([58500]), torch.float32, 1.0)
        >>> bool(rates[625 * 39 :].any()), "0.5 s are 625 frames"
        (False, '0.5 s are 625 frames')
    """

    def __init__(
        self,
        ear: LyonEar | None = None,
        *,
        sample_rate: int | None = None,
        frames: int = 1500,
        stereo: str = "refuse",
        max_seconds: float = 60.0,
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if ear is not None and not isinstance(ear, LyonEar):
            raise TypeError(f"Cochleagram: expected ear as a LyonEar, got {type(ear).__name__}")
        if isinstance(frames, bool) or not isinstance(frames, int):
            raise TypeError(f"Cochleagram: expected frames as an int, got {type(frames).__name__}")
        if frames < 1:
            raise ValueError(f"Cochleagram: expected frames >= 1, got {frames}")
        if stereo not in ("refuse", "mean"):
            raise ValueError(f"Cochleagram: expected stereo of refuse, mean, got {stereo!r}")
        if not max_seconds > 0:
            raise ValueError(f"Cochleagram: expected max_seconds > 0, got {max_seconds}")
        self.ear = LyonEar() if ear is None else ear
        self.sample_rate = None if sample_rate is None else _checked_rate(sample_rate)
        self.frames = frames
        self.stereo = stereo
        self.max_seconds = max_seconds
        self.cache = None if cache is None else CochleagramCache(cache)

    @property
    def features(self) -> int:
        """Length of a flattened cochleagram, ``frames * ear.channels``: 58,500 by default."""
        return self.frames * self.ear.channels

    def extra_repr(self) -> str:
        """The text that print shows between the brackets."""
        return f"{self.ear}, frames={self.frames}, features={self.features}"

    def forward(
        self, audio: Tensor | NDArray[Any] | Sequence[Tensor | NDArray[Any]], sample_rate: int | None = None
    ) -> Tensor:
        """Computes cochleagrams of sound of one sample rate.

        Args:
            audio: ``[time]``, ``[channel, time]`` as torchaudio gives it, or ``[batch, channel, time]``; a torch tensor
                or numpy array of floating-point numbers within ±1, int16, int32 or uint8. Or a list of ``[time]`` or
                ``[channel, time]`` of any lengths.
            sample_rate: in Hz, 1,000 to 384,000; None for the one that the module was made with.

        Returns:
            float32 ``[features]`` for one recording, ``[B, features]`` for a batch or list, in [0, 1]; frame after
            frame, the channel fastest: ``view(frames, channels)``.

        Raises:
            TypeError: sound of another type, or a sample rate that is no whole number.
            ValueError: sound or a sample rate that is refused (see the class), sound that requires a gradient, or a
                damaged entry in the cache.
            ImportError: scipy is not installed.
            OSError: the cache cannot be read or written.
        """
        rate = _checked_rate(self.sample_rate if sample_rate is None else sample_rate)
        if isinstance(audio, Sequence):
            entries, single = list(audio), False
            device = next((entry.device for entry in entries if isinstance(entry, Tensor)), None)
        else:
            samples = _samples(audio, "audio")
            single = samples.ndim != 3
            entries = [samples] if single else list(samples)
            device = audio.device if isinstance(audio, Tensor) else None
        names = ["audio"] if single else [f"audio[{i}]" for i in range(len(entries))]
        waves = [self._wave(entry, name) for entry, name in zip(entries, names, strict=True)]
        rates = torch.from_numpy(self._flat(self._maps(waves, [rate] * len(waves), names)))
        return (rates[0] if single else rates).to(device or "cpu")

    def encode(self, recordings: Iterable[Loadable | tuple[Any, ...]]) -> Tensor:
        """Computes the cochleagrams of many recordings, of any lengths and sample rates, a few hundred at a time.

        The 3,000 recordings of FSDD, 22 minutes of speech, take about 40 s of one core.

        Args:
            recordings: such as a ``spikefuse.data.Corpus``, each of which is loaded once, when its turn comes; or a
                dataset of torchaudio, whose items are tuples that begin with sound and its sample rate.

        Returns:
            float32 ``[N, features]`` in the order of ``recordings``: 234 kB each by default.

        Raises:
            TypeError, ValueError, ImportError, OSError: as when called, or as ``load`` of a recording raises. The error
                names the recording.

        Example:
            >>> class Noise:
            ...     def load(self):
            ...         return torch.rand(1, 2000) - 0.5, 16_000
            >>> Cochleagram().encode([Noise(), Noise()]).shape
            torch.Size([2, 58500])
        """
        maps: list[Map] = []
        remaining = iter(recordings)
        while chunk := list(islice(remaining, _RECORDINGS_AT_ONCE)):
            names = [_name(recording, len(maps) + i) for i, recording in enumerate(chunk)]
            loaded = [_load(recording, name) for recording, name in zip(chunk, names, strict=True)]
            waves = [self._wave(audio, name) for (audio, _), name in zip(loaded, names, strict=True)]
            rates = [
                _checked_rate(rate, f"sample_rate of {name}") for (_, rate), name in zip(loaded, names, strict=True)
            ]
            maps.extend(self._maps(waves, rates, names))
        return torch.from_numpy(self._flat(maps))

    def _wave(self, audio: Tensor | NDArray[Any], name: str) -> Wave:
        """Checks one recording and makes it one channel of float64, full scale ±1."""
        samples = _samples(audio, name)
        if samples.ndim == 2:
            if len(samples) != 1 and (self.stereo == "refuse" or len(samples) == 0):
                raise ValueError(
                    f"Cochleagram: expected {name} of one channel, [time] or [1, time], got {list(samples.shape)}; "
                    'stereo="mean" averages the channels'
                )
        elif samples.ndim != 1:
            raise ValueError(
                f"Cochleagram: expected {name} of shape [time], [channel, time] or [batch, channel, time], "
                f"got {list(samples.shape)}"
            )
        wave = _full_scale(samples, name)
        if wave.ndim == 2:
            wave = wave.mean(axis=0)
        # A NaN fails the comparison too.
        if wave.size and not (peak := np.abs(wave).max()) <= _LARGEST_SAMPLE:
            raise ValueError(
                f"Cochleagram: expected finite samples of {name} within full scale, -1 to 1, got a peak of {peak:g}; "
                "samples of int16 in another type are to be divided by 32768"
            )
        return wave

    def _flat(self, maps: Sequence[Map]) -> Map:
        """Rates ``[B, features]``, padded with zeros."""
        flat = np.zeros((len(maps), self.frames, self.ear.channels), dtype=np.float32)
        for padded, cochleagram in zip(flat, maps, strict=True):
            padded[: len(cochleagram)] = cochleagram
        return flat.reshape(len(maps), self.features)

    def _maps(self, waves: Sequence[Wave], rates: Sequence[int], names: Sequence[str]) -> list[Map]:
        """The cochleagram of each recording, normalised and cut but not padded, from the cache or the ear."""
        maps: dict[int, Map] = {}
        missing: list[tuple[int, str | None, Wave]] = []
        for wave, rate, name in zip(waves, rates, names, strict=True):
            self._check_length(len(wave), rate, name)
        for i, (wave, rate) in enumerate(zip(waves, rates, strict=True)):
            key, stored = None, None
            if self.cache is not None:
                key = self._key(wave, rate)
                stored = self.cache.get(key, self.ear.channels)
            if stored is not None:
                maps[i] = stored
            else:
                missing.append((i, key, _resampled(wave, rate, self.ear.sample_rate)))
        missing.sort(key=lambda entry: len(entry[2]))
        for group in _groups(missing):
            padded = np.zeros((len(group), len(group[-1][2])))
            for row, (_, _, wave) in zip(padded, group, strict=True):
                row[: len(wave)] = wave
            for (i, key, wave), heard in zip(group, self.ear(padded), strict=True):
                maps[i] = _normalised(heard[: len(wave) // self.ear.decimation])[: self.frames]
                if self.cache is not None and key is not None:
                    self.cache.put(key, maps[i])
        return [maps[i] for i in range(len(waves))]

    def _check_length(self, samples: int, rate: int, name: str) -> None:
        if samples > self.max_seconds * rate:
            raise ValueError(
                f"Cochleagram: expected {name} of at most max_seconds = {self.max_seconds:g} s, got "
                f"{samples / rate:.1f} s; cut it into utterances, or raise max_seconds"
            )
        needed = self.ear.decimation
        if math.ceil(samples * Fraction(self.ear.sample_rate, rate)) < needed:
            raise ValueError(
                f"Cochleagram: expected {name} of at least one frame, {needed} samples at {self.ear.sample_rate} Hz, "
                f"got {samples} samples at {rate} Hz"
            )

    def _key(self, wave: Wave, rate: int) -> str:
        settings = {
            "version": ALGORITHM_VERSION,
            "ear": type(self.ear).__name__,
            "settings": asdict(self.ear),
            "frames": self.frames,
            "sample_rate": rate,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + b"\0")
        digest.update(wave.astype("<f8").tobytes())
        return digest.hexdigest()


def _name(recording: Any, index: int) -> str:
    """Names a recording in an error."""
    name = getattr(recording, "name", None)
    return name if isinstance(name, str) else f"recordings[{index}]"


def _load(recording: Any, name: str) -> tuple[Any, Any]:
    """Sound and sample rate of a recording, or the first two items of a tuple."""
    if isinstance(recording, tuple) and len(recording) >= 2:
        return recording[0], recording[1]
    if not hasattr(recording, "load"):
        raise TypeError(
            f"Cochleagram: expected {name} to have a load() or to be a tuple of sound and sample rate, got "
            f"{type(recording).__name__}"
        )
    audio, sample_rate = recording.load()
    return audio, sample_rate


def _samples(audio: Any, name: str) -> NDArray[Any]:
    """The array behind a tensor or array."""
    if isinstance(audio, Tensor):
        if audio.requires_grad:
            raise ValueError(
                f"Cochleagram: expected {name} without gradient, which the ear has none of; detach it first"
            )
        # numpy has no bfloat16.
        return (audio.float() if audio.dtype == torch.bfloat16 else audio).cpu().numpy()
    if isinstance(audio, np.ndarray):
        return audio
    raise TypeError(f"Cochleagram: expected {name} as a torch tensor or numpy array, got {type(audio).__name__}")


def _full_scale(samples: NDArray[Any], name: str) -> Wave:
    """Float64 samples of full scale ±1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return samples.astype(np.float64) / (np.iinfo(samples.dtype).max + 1.0)
    raise TypeError(
        f"Cochleagram: expected {name} of floating-point numbers, int16, int32 or uint8, got {samples.dtype}"
    )


def _checked_rate(sample_rate: Any, name: str = "sample_rate") -> int:
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, (int, np.integer)):
        raise TypeError(f"Cochleagram: expected {name} as an int in Hz, got {type(sample_rate).__name__}")
    if not SAMPLE_RATES[0] <= sample_rate <= SAMPLE_RATES[1]:
        raise ValueError(
            f"Cochleagram: expected {name} from {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz, got {sample_rate}"
        )
    return int(sample_rate)


def _resampled(wave: Wave, rate: int, target: int) -> Wave:
    """Resamples by the ratio of the rates in lowest terms: 25/16 for 8 kHz to 12.5 kHz."""
    if rate == target:
        return wave
    ratio = Fraction(target, rate)
    signal = require("scipy.signal", "scipy", "resampling")
    resampled: Wave = signal.resample_poly(wave, ratio.numerator, ratio.denominator)
    return resampled


def _normalised(heard: Wave) -> Map:
    peak = heard.max()
    # A silent recording has no maximum to divide by, and stays silent.
    return (heard / peak if peak > 0 else heard).astype(np.float32)


def _groups(entries: list[tuple[int, str | None, Wave]]) -> Iterator[list[tuple[int, str | None, Wave]]]:
    """Splits recordings sorted by length into groups that are cheap to pad and bounded in size."""
    group: list[tuple[int, str | None, Wave]] = []
    for entry in entries:
        if group and (len(group) == _GROUP or (len(group) + 1) * len(entry[2]) > _GROUP_SAMPLES):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group
