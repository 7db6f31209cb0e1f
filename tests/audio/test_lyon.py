"""The ear against its equations, written out sample by sample, and against another implementation of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy")

from scipy import signal

from spikefuse.audio import Cochleagram, LyonEar, lyon
from spikefuse.audio.gain import GainControl
from spikefuse.data import fsdd_available, load_fsdd

SETTINGS = [(12_500, 10, 8.0, 0.5), (12_500, 1, 8.0, 0.5), (16_000, 20, 8.0, 0.25), (8_000, 7, 6.0, 0.4)]


def sound(samples: int, seed: int = 0, sample_rate: int = 12_500) -> np.ndarray:
    """A rising tone in noise."""
    time = np.arange(samples) / sample_rate
    noise = 0.05 * np.random.default_rng(seed).standard_normal(samples)
    return 0.3 * np.sin(2 * np.pi * (300 + 2000 * time) * time) + noise


def direct_form(b: np.ndarray, a: np.ndarray, x: list[float]) -> list[float]:
    y: list[float] = []
    for n in range(len(x)):
        past = sum(b[k] * x[n - k] for k in range(3) if n >= k)
        y.append(past - sum(a[k] * y[n - k] for k in (1, 2) if n >= k))
    return y


def written_out(x: np.ndarray, fs: int, df: int, q: float, s: float) -> np.ndarray:
    """Lyon's passive ear, loop by loop."""

    def width(f: float) -> float:
        return math.sqrt(f * f + 1000.0**2) / q

    def g(f: float) -> float:
        return f + math.sqrt(f * f + 1000.0**2)

    def section(f: float, quality: float) -> np.ndarray:
        rho = math.exp(-math.pi * f / (fs * quality))
        theta = 2 * math.pi * f / fs * math.sqrt(1 - 1 / (4 * quality**2))
        return np.array([1, -2 * rho * math.cos(theta), rho**2])

    def gain(b: np.ndarray, a: np.ndarray, f: float) -> float:
        delays = np.exp(-2j * math.pi * f / fs * np.arange(3))
        return float(abs(b @ delays) / abs(a @ delays))

    top = fs / 2 - 0.5 * s * width(fs / 2)
    low = 1000.0 / math.sqrt(4 * q * q - 1)
    count = math.floor(q * math.log(g(top) / g(low)) / s)
    centres = []
    for n in range(1, count + 1):
        k = math.exp(n * s / q)
        centres.append((g(top) / k - k * 1000.0**2 / g(top)) / 2)

    corner = math.exp(-2 * math.pi * 300 / fs)
    cascade = [(np.array([0, 1, -corner]), np.array([1.0, 0, 0]), 1.0, fs / 4)]
    cascade.append((np.array([1.0, 0, -1]), section(top, centres[0] / width(centres[0])), 1.0, fs / 4))
    for n, f in enumerate(centres):
        zero = f + 1.5 * s * width(f)
        wanted = centres[max(n, 1) - 1] / centres[max(n, 1)]
        cascade.append((section(zero, 5 * zero / width(f)), section(f, f / width(f)), wanted, 0.0))
    taps, signal = [], [float(value) for value in x]
    for b, a, wanted, f in cascade:
        signal = direct_form(b * (wanted / gain(b, a, f)), a, signal)
        taps.append([max(value, 0.0) for value in signal])
    y = np.array(taps).T
    y[::df, :2] = 0

    for target, tau in ((0.0032, 0.64), (0.0016, 0.16), (0.0008, 0.04), (0.0004, 0.01)):
        eps = 1 - math.exp(-1 / (tau * fs))
        state = np.zeros(count + 2)
        for n in range(len(y)):
            y[n] = abs(y[n] * (1 - state))
            left, right = np.append(state[0], state[:-1]), np.append(state[1:], state[-1])
            state = np.minimum(0.9, y[n] * eps / target + (1 - eps) / 3 * (left + state + right))

    y = np.hstack([y[:, :1], np.maximum(0, y[:, :-1] - y[:, 1:])])
    if df > 1:
        d = 1 - math.exp(-1 / (3 * df / fs * fs))
        b, a = np.array([0, 0, d * d]), np.array([1, -2 * (1 - d), (1 - d) ** 2])
        y = np.array([direct_form(b, a, list(channel)) for channel in y.T]).T
    return y[df - 1 :: df, 2:][: len(x) // df]


@pytest.mark.parametrize(("fs", "df", "q", "s"), SETTINGS)
def test_the_equations(fs: int, df: int, q: float, s: float) -> None:
    x = sound(403, sample_rate=fs)
    expected = written_out(x, fs, df, q, s)
    rates = LyonEar(fs, df, q, s)(x)
    assert rates.shape == expected.shape == (403 // df, LyonEar(fs, df, q, s).channels)
    assert expected.max() > 0
    # Sums of at most 403 terms in another order, through 41 stages of gain near 1.
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-11 * expected.max())


@pytest.fixture
def lyon_passive_ear() -> Callable[..., np.ndarray]:
    """The function of PyPI's lyon, whose wheel holds a library for Linux on x86-64 alone."""
    calc = pytest.importorskip("lyon.calc")
    try:
        return calc.LyonCalc().lyon_passive_ear
    except OSError as error:
        pytest.skip(f"lyon's library does not load here: {error}")


@pytest.mark.parametrize(("fs", "df", "q", "s"), SETTINGS)
def test_parity_with_the_lyon_package(
    lyon_passive_ear: Callable[..., np.ndarray], fs: int, df: int, q: float, s: float
) -> None:
    x = sound(12_500, sample_rate=fs)
    expected = lyon_passive_ear(x, fs, df, q, s)
    rates = LyonEar(fs, df, q, s)(x)
    assert expected.max() > 0
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-9 * expected.max())


def test_parity_on_real_speech(lyon_passive_ear: Callable[..., np.ndarray]) -> None:
    pytest.importorskip("soundfile")
    if not os.environ.get("SPIKEFUSE_DATA") or not fsdd_available():
        pytest.skip("no FSDD in SPIKEFUSE_DATA")
    recordings = load_fsdd(download=False)[::600]
    rates = Cochleagram().encode(recordings).view(len(recordings), 1500, 39).numpy()
    for recording, cochleagram in zip(recordings, rates, strict=True):
        samples, rate = recording.load()
        assert rate == 8000
        expected = lyon_passive_ear(signal.resample_poly(samples[0].double().numpy(), 25, 16), 12_500, 10, 8, 0.5)
        frames = min(len(expected), 1500)
        # float32 rounds a rate below 1 by at most 2^-25.
        np.testing.assert_allclose(cochleagram[:frames], expected[:frames] / expected.max(), rtol=0, atol=2**-25 + 1e-9)
        assert not cochleagram[frames:].any()


def test_the_paper_s_ear() -> None:
    ear = LyonEar()
    assert (ear.channels, ear.frame_rate) == (39, 1250)
    assert ear.channels * 1500 == 58_500
    assert (np.diff(ear.centre_frequencies) < 0).all()
    assert 0 < ear.centre_frequencies[-1] < ear.centre_frequencies[0] < 12_500 / 2
    sections = ear.filters()
    assert (np.abs([np.roots(section[3:]) for section in sections[1:]]) < 1).all(), "stable"


@pytest.mark.parametrize("frequency", [200, 500, 1000, 2000, 4000])
def test_a_tone_is_loudest_in_a_channel_near_its_frequency(frequency: int) -> None:
    ear = LyonEar()
    rates = ear(0.3 * np.sin(2 * np.pi * frequency / 12_500 * np.arange(5000)))
    loudest = rates[100:].mean(axis=0).argmax()
    nearest = np.abs(ear.centre_frequencies - frequency).argmin()
    assert abs(int(loudest) - int(nearest)) <= 2


def test_the_gain_control_evens_out_loudness() -> None:
    x = sound(5000)
    quiet, loud = (LyonEar()(scale * x)[250:].mean() for scale in (0.1, 1.0))
    assert quiet < loud < 5 * quiet


def test_a_batch_is_its_signals_bit_for_bit() -> None:
    ear = LyonEar()
    signals = np.stack([sound(1000, seed) for seed in range(7)])
    batch = ear(signals)
    for each, rates in zip(signals, batch, strict=True):
        np.testing.assert_array_equal(ear(each), rates)


def test_padding_at_the_end_changes_nothing_before_it() -> None:
    ear = LyonEar()
    x = sound(1000)
    padded = ear(np.concatenate([x, np.zeros(500)]))
    np.testing.assert_array_equal(padded[:100], ear(x))
    assert padded[100:].any(), "the ear rings on"


@pytest.mark.parametrize("samples", [30, 70, 110])
def test_long_signals_in_pieces_are_the_same(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.stack([sound(1234, seed) for seed in range(3)])
    whole = LyonEar()(x)
    monkeypatch.setattr(lyon, "_SAMPLES_AT_ONCE", samples)
    np.testing.assert_array_equal(LyonEar()(x), whole)


def test_any_layout_of_the_input() -> None:
    x = np.stack([sound(200, seed) for seed in range(4)])
    expected = LyonEar()(x)
    np.testing.assert_array_equal(LyonEar()(np.asfortranarray(x)), expected)
    np.testing.assert_array_equal(LyonEar()(np.repeat(x, 2, axis=1)[:, ::2]), expected)
    before = x.copy()
    LyonEar()(x)
    np.testing.assert_array_equal(x, before)


def test_nothing_heard() -> None:
    assert LyonEar()(np.zeros((0, 100))).shape == (0, 10, 39)
    assert LyonEar()(np.zeros(9)).shape == (0, 39)
    assert not LyonEar()(np.zeros(1000)).any()


@given(pieces=st.lists(st.integers(1, 6), min_size=1, max_size=5), channels=st.integers(2, 5))
def test_the_gain_control_continues_where_it_stopped(pieces: list[int], channels: int) -> None:
    # The four stages run at different samples of one tick, which must not show, however short the pieces.
    x = np.random.default_rng(sum(pieces)).random((sum(pieces), channels, 2))
    whole = x.copy()
    GainControl(100, channels, 2)(whole)
    parts = np.split(x, np.cumsum(pieces)[:-1])
    control = GainControl(100, channels, 2)
    for part in parts:
        control(part)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"LyonEar: expected sample_rate as an int, got float"):
        LyonEar(12_500.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected decimation >= 1, got 0"):
        LyonEar(decimation=0)
    with pytest.raises(ValueError, match=r"expected a finite ear_q > 0.5, got 0.5"):
        LyonEar(ear_q=0.5)
    with pytest.raises(ValueError, match=r"expected a finite step_factor > 0, got nan"):
        LyonEar(step_factor=math.nan)
    with pytest.raises(ValueError, match=r"at least 2 channels, got 0 from sample_rate 100 Hz"):
        LyonEar(100)
    with pytest.raises(ValueError, match=r"shape \[time\] or \[B, time\], got \[1, 2, 3\]"):
        LyonEar()(np.zeros((1, 2, 3)))
    with pytest.raises(TypeError, match=r"real numbers, got complex128"):
        LyonEar()(np.zeros(20, complex))
    with pytest.raises(ValueError, match=r"finite signals"):
        LyonEar()(np.array([0.0, np.inf]))
