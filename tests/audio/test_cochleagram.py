"""Cochleagrams: shapes, scales, resampling, what is refused, and the cache."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from scipy import signal

from spikefuse.audio import Cochleagram, LyonEar, cochleagram


def sound(samples: int, seed: int = 0) -> torch.Tensor:
    """Noise whose values float32, and int16 at full scale 32,768, hold exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8000, 8000, (samples,), generator=generator).float() / 32768


def expected(wave: torch.Tensor, rate: int, frames: int = 1500) -> torch.Tensor:
    """One recording, step by step."""
    ratio = Fraction(12_500, rate)
    heard = LyonEar()(signal.resample_poly(wave.double().numpy(), ratio.numerator, ratio.denominator))
    rates = np.zeros((frames, 39), dtype=np.float32)
    kept = (heard / heard.max())[:frames]
    rates[: len(kept)] = kept
    return torch.from_numpy(rates.reshape(-1))


@pytest.mark.parametrize("rate", [8_000, 12_500, 16_000, 44_100])
def test_resampled_heard_normalised_padded_and_flattened(rate: int) -> None:
    wave = sound(rate // 4)
    rates = Cochleagram()(wave, rate)
    assert rates.dtype == torch.float32
    assert rates.shape == (58_500,)
    assert torch.equal(rates, expected(wave, rate))
    frames = rates.view(1500, 39)
    heard = math.ceil(len(wave) * 12_500 / rate) // 10
    assert frames[:heard].any()
    assert not frames[heard:].any()
    assert (rates.min(), rates.max()) == (0, 1)


def test_long_recordings_are_divided_by_their_maximum_and_cut() -> None:
    wave = torch.cat([0.01 * sound(12_500), torch.zeros(2500), sound(25_000)])
    rates = Cochleagram()(wave, 12_500)
    assert torch.equal(rates, expected(wave, 12_500))
    assert 0 < rates.max() < 1, "the loudest frame comes after the cut"
    assert torch.equal(Cochleagram(frames=10)(wave, 12_500), rates[: 10 * 39])


def test_eight_kilohertz_is_25_to_16(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = []
    resample = signal.resample_poly

    def spy(x: np.ndarray, up: int, down: int) -> Any:
        ratios.append((up, down))
        return resample(x, up, down)

    monkeypatch.setattr(signal, "resample_poly", spy)
    Cochleagram()(sound(1000), 8_000)
    Cochleagram()(sound(1000), 12_500)
    assert ratios == [(25, 16)], "nothing is done to 12.5 kHz"


def test_shapes() -> None:
    module = Cochleagram(frames=20)
    waves = torch.stack([sound(1600, seed) for seed in range(3)])
    one, all_three = module(waves[0], 8000), module(waves[:, None], 8000)
    assert all_three.shape == (3, 780)
    assert torch.equal(all_three[0], one)
    assert torch.equal(module(waves[:1], 8000), one), "[channel, time], as torchaudio gives it"
    assert torch.equal(module(list(waves), 8000), all_three)
    assert torch.equal(module(tuple(wave[None] for wave in waves), 8000), all_three)
    assert torch.equal(module(waves[:, None].numpy(), 8000), all_three)
    assert torch.equal(module(waves.t().contiguous().t()[:, None], 8000), all_three)
    assert module(torch.zeros(0, 1, 100), 8000).shape == module([], 8000).shape == (0, 780)


def test_a_ragged_list_is_its_recordings_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    waves = [sound(samples, samples) for samples in (900, 400, 1500, 401, 400)]
    module = Cochleagram()
    alone = torch.stack([module(wave, 8000) for wave in waves])
    assert torch.equal(module(waves, 8000), alone)
    for name, value in (("_GROUP", 2), ("_GROUP_SAMPLES", 1300)):
        monkeypatch.setattr(cochleagram, name, value)
        assert torch.equal(module(waves, 8000), alone)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"), [(torch.int16, 2**15, 0), (torch.int32, 2**31, 0), (torch.uint8, 2**7, 128)], ids=str
)
def test_integers_are_divided_by_full_scale(dtype: torch.dtype, scale: int, offset: int) -> None:
    wave = (sound(2000) * 128).round() / 128
    integers = (wave.double() * scale + offset).to(dtype)
    assert torch.equal(Cochleagram()(integers, 8000), Cochleagram()(wave, 8000))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floating_point_types(dtype: torch.dtype) -> None:
    wave = sound(2000).to(dtype)
    assert torch.equal(Cochleagram()(wave, 8000), Cochleagram()(wave.float(), 8000))


def test_silence_is_zeros() -> None:
    rates = Cochleagram()([torch.zeros(4000), sound(4000)], 8000)
    assert not rates[0].any()
    assert rates[1].max() == 1


def test_clipped_sound_and_an_offset_are_sound() -> None:
    clipped = (20 * sound(4000)).clamp(-1, 1)
    assert (clipped.abs() == 1).float().mean() > 0.5
    for wave in (clipped, sound(4000) + 0.4):
        rates = Cochleagram()(wave, 8000)
        assert rates.isfinite().all()
        assert rates.max() == 1


def test_stereo_is_refused_unless_averaged() -> None:
    both = torch.stack([sound(2000, 0), sound(2000, 1)])
    with pytest.raises(ValueError, match=r'audio of one channel.*got \[2, 2000\]; stereo="mean" averages'):
        Cochleagram()(both, 8000)
    with pytest.raises(ValueError, match=r"audio\[1\] of one channel"):
        Cochleagram()([both[:1], both], 8000)
    averaged = Cochleagram(stereo="mean")
    assert torch.equal(averaged(both, 8000), averaged(both.double().mean(dim=0), 8000))
    assert averaged(both[None], 8000).shape == (1, 58_500)


def test_ten_minutes_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LyonEar, "__call__", lambda *_: pytest.fail("the ear was run"))
    monkeypatch.setattr(signal, "resample_poly", lambda *_: pytest.fail("resampled"))
    with pytest.raises(ValueError, match=r"at most max_seconds = 60 s, got 600.0 s; cut it into utterances"):
        Cochleagram()(torch.zeros(600 * 8000), 8000)


def test_a_higher_limit_allows_longer_recordings() -> None:
    wave = sound(16_000)
    with pytest.raises(ValueError, match=r"max_seconds = 1.5 s, got 2.0 s"):
        Cochleagram(max_seconds=1.5)(wave, 8000)
    assert torch.equal(Cochleagram(max_seconds=2)(wave, 8000), Cochleagram()(wave, 8000))


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (5, 0), (6, 1)])
def test_less_than_a_frame_is_refused(samples: int, frames: int) -> None:
    # 6 samples at 8 kHz are 9.4 at 12.5 kHz: ten, the last of them partly after the end.
    if frames:
        Cochleagram()(sound(samples), 8000)
    else:
        with pytest.raises(ValueError, match=rf"at least one frame, 10 samples .*, got {samples} samples at 8000 Hz"):
            Cochleagram()(sound(samples), 8000)


BAD = {
    "nan": (torch.tensor([0.0, math.nan] * 50), 8000, ValueError, "a peak of nan"),
    "infinity": (torch.tensor([0.0, math.inf] * 50), 8000, ValueError, "a peak of inf"),
    "int16 as float": (torch.full((100,), 300.0), 8000, ValueError, "a peak of 300; samples of int16 .* by 32768"),
    "four dimensions": (torch.zeros(1, 1, 1, 9), 8000, ValueError, r"got \[1, 1, 1, 9\]"),
    "scalar": (torch.tensor(0.0), 8000, ValueError, r"audio of shape .*, got \[\]"),
    "no channel": (torch.zeros(0, 100), 8000, ValueError, r"one channel.* got \[0, 100\]"),
    "bool": (torch.zeros(100, dtype=torch.bool), 8000, TypeError, "int16, int32 or uint8, got bool"),
    "int64": (torch.zeros(100, dtype=torch.int64), 8000, TypeError, "got int64"),
    "complex": (torch.zeros(100, dtype=torch.complex64), 8000, TypeError, "got complex64"),
    "text": ("sound.wav", 8000, TypeError, "torch tensor or numpy array, got str"),
    "gradient": (torch.zeros(100, requires_grad=True), 8000, ValueError, "detach it"),
    "rate of float": (torch.zeros(100), 8000.0, TypeError, "sample_rate as an int in Hz, got float"),
    "no rate": (torch.zeros(100), None, TypeError, "sample_rate as an int in Hz, got NoneType"),
    "rate of zero": (torch.zeros(100), 0, ValueError, "sample_rate from 1000 to 384000 Hz, got 0"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_sound_is_refused(case: str) -> None:
    audio, rate, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        Cochleagram()(audio, rate)


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match="ear as a LyonEar, got int"):
        Cochleagram(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="frames as an int, got float"):
        Cochleagram(frames=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames >= 1, got 0"):
        Cochleagram(frames=0)
    with pytest.raises(ValueError, match="stereo of refuse, mean, got 'left'"):
        Cochleagram(stereo="left")
    with pytest.raises(ValueError, match="max_seconds > 0, got nan"):
        Cochleagram(max_seconds=math.nan)


@dataclasses.dataclass
class Take:
    name: str
    wave: torch.Tensor
    sample_rate: int

    def load(self) -> tuple[torch.Tensor, int]:
        return self.wave[None], self.sample_rate


def test_encode_takes_recordings_of_any_length_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = [Take(f"{i}", sound(500 + 100 * (i % 3), i), (8000, 12_500, 16_000)[i % 3]) for i in range(5)]
    alone = torch.stack([Cochleagram()(take.wave, take.sample_rate) for take in takes])
    assert torch.equal(Cochleagram().encode(iter(takes)), alone)
    monkeypatch.setattr(cochleagram, "_RECORDINGS_AT_ONCE", 2)
    assert torch.equal(Cochleagram().encode(takes), alone)
    assert Cochleagram().encode([]).shape == (0, 58_500)


def test_encode_takes_items_of_torchaudio_datasets() -> None:
    items = [(sound(800)[None], 16_000, "yes", "speaker", 0), (sound(500)[None], 8000, "no", "speaker", 1)]
    expected = torch.stack([Cochleagram()(sound(800), 16_000), Cochleagram()(sound(500), 8000)])
    assert torch.equal(Cochleagram().encode(items), expected)
    with pytest.raises(TypeError, match=r"recordings\[0\] to have a load\(\) or to be a tuple .*, got Tensor"):
        Cochleagram().encode([sound(800)])  # type: ignore[list-item]


def test_encode_names_the_recording_that_is_refused() -> None:
    takes = [Take("good.wav", sound(500), 8000), Take("short.wav", sound(3), 8000)]
    with pytest.raises(ValueError, match=r"expected short\.wav of at least one frame"):
        Cochleagram().encode(takes)
    takes[1] = Take("stereo.wav", sound(500), 8000)
    takes[1].load = lambda: (torch.zeros(2, 500), 8000)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"expected stereo\.wav of one channel"):
        Cochleagram().encode(takes)
    takes[1] = Take("slow.wav", sound(500), 800)
    with pytest.raises(ValueError, match=r"sample_rate of slow\.wav from 1000 to 384000 Hz, got 800"):
        Cochleagram().encode(takes)
    with pytest.raises(ValueError, match=r"expected audio\[1\] of at least one frame"):
        Cochleagram()([sound(500), sound(3)], 8000)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_cache_spares_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = [sound(500), sound(900), sound(16_000)]
    computed = Cochleagram(cache=tmp_path / "new" / "cache")(waves, 8000)
    assert torch.equal(computed, Cochleagram()(waves, 8000))
    assert len(entries(tmp_path)) == 3
    monkeypatch.setattr(LyonEar, "__call__", lambda *_: pytest.fail("computed again"))
    cached = Cochleagram(cache=tmp_path / "new" / "cache")
    assert torch.equal(cached(waves[::-1], 8000), computed.flip(0))
    # The key is of the sound, not of how it came.
    assert torch.equal(cached((waves[0] * 32768).to(torch.int16), 8000), computed[0])
    assert torch.equal(cached(waves[0].double().numpy()[None], 8000), computed[0])


@pytest.mark.parametrize(
    "other",
    [
        {"ear": LyonEar(step_factor=0.4)},
        {"ear": LyonEar(ear_q=7.0)},
        {"ear": LyonEar(sample_rate=12_000)},
        {"ear": LyonEar(decimation=11)},
        {"frames": 7},
    ],
    ids=str,
)
def test_other_settings_are_other_entries(tmp_path: Path, other: dict[str, Any]) -> None:
    wave = sound(1000)
    Cochleagram(cache=tmp_path)(wave, 8000)
    assert torch.equal(Cochleagram(**other, cache=tmp_path)(wave, 8000), Cochleagram(**other)(wave, 8000))
    assert len(entries(tmp_path)) == 2


def test_other_sound_rates_and_versions_are_other_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, wave = Cochleagram(cache=tmp_path), sound(1000)
    module(wave, 8000)
    module(wave, 8001)
    changed = wave.clone()
    changed[-1] += 2**-15
    module(changed, 8000)
    module(torch.cat([wave, torch.zeros(1)]), 8000)
    assert len(entries(tmp_path)) == 4
    monkeypatch.setattr(cochleagram, "ALGORITHM_VERSION", cochleagram.ALGORITHM_VERSION + 1)
    module(wave, 8000)
    assert len(entries(tmp_path)) == 5


@pytest.mark.parametrize("damage", ["empty", "cut short", "one bit", "another file", "another array"])
def test_a_damaged_entry_is_an_error(tmp_path: Path, damage: str) -> None:
    module, wave = Cochleagram(cache=tmp_path), sound(1000)
    module(wave, 8000)
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "another array":
        np.savez(path, cochleagram=np.zeros((5, 38), np.float32))
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        damaged = {"empty": b"", "cut short": content[:-9], "one bit": flipped, "another file": b"text"}
        path.write_bytes(damaged[damage])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"cochleagram cache: .*{path.stem}.*delete it to compute it again"):
        module(wave, 8000)
    assert path.read_bytes() == before


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Cochleagram(cache=tmp_path / "file")(sound(1000), 8000)


def test_in_a_sequential_and_poisson_encoded() -> None:
    from spikefuse.functional import poisson_encode

    rates = Cochleagram()([sound(4000)] * 2, 8000)
    spikes = poisson_encode(rates * 0.02, 60, seed=0)
    assert spikes.unpack().shape == (60, 2, 58_500)
    module = torch.nn.Sequential(Cochleagram(sample_rate=8000), torch.nn.Linear(58_500, 2))
    assert module(sound(4000)[None, None]).shape == (1, 2)
    assert len(list(module.parameters())) == len(module.state_dict()) == 2
    assert "features=58500" in repr(module)


def test_the_core_does_not_import_it_nor_it_scipy() -> None:
    code = (
        "import sys, spikefuse; a = [m for m in sys.modules if m.startswith(('spikefuse.audio', 'spikefuse.data'))]; "
        "import spikefuse.audio, spikefuse.data; b = {'scipy', 'soundfile', 'torchaudio'} & set(sys.modules); "
        "sys.exit(f'{a} {b}' if a or b else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(ImportError, match=r"needs scipy.*pip install spikefuse\[app\]"):
        Cochleagram()(sound(1000), 12_500)
    with pytest.raises(ImportError, match=r"resampling needs scipy"):
        Cochleagram()(sound(1000), 8000)
