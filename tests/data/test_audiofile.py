"""Sound files: RIFF and NIST SPHERE, by content, and every way they can be wrong."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("soundfile")

import soundfile

from spikefuse.data import Waveform, read_audio
from spikefuse.data.audiofile import FileSlice

from .speech import SAMPLES, sphere, wav

FULL_SCALE = torch.from_numpy(SAMPLES.astype(np.float32) / 32768)[None]


@pytest.mark.parametrize("name", ["a.wav", "A.WAV", "a.sph", "a"])
@pytest.mark.parametrize(
    ("content", "rate"),
    [
        (wav(), 8000),
        (wav(size=0xFFFFFFFF), 8000),
        (sphere(), 12_500),
        (sphere(byte_format="10"), 12_500),
        (sphere(coding=None), 12_500),
    ],
    ids=["riff", "riff from a pipe", "sphere", "sphere big-endian", "sphere without a coding"],
)
def test_the_format_is_told_by_the_content(tmp_path: Path, name: str, content: bytes, rate: int) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    samples, sample_rate = read_audio(path)
    assert sample_rate == rate
    assert samples.dtype == torch.float32
    assert torch.equal(samples, FULL_SCALE)
    assert samples.is_contiguous()


@pytest.mark.parametrize("content", [wav(SAMPLES[:6], channels=2), sphere(SAMPLES[:6], channels=2)])
def test_channels_come_first(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert torch.equal(read_audio(str(tmp_path / "a")).samples, FULL_SCALE[0, :6].view(3, 2).t())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_other_wav_codings(tmp_path: Path, subtype: str) -> None:
    wave = np.sin(np.arange(500) / 10) * 0.9
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype=subtype)
    read = read_audio(tmp_path / "a.wav")
    assert read.sample_rate == 16_000
    np.testing.assert_allclose(read.samples[0], wave, atol={"PCM_U8": 1 / 127, "ULAW": 0.04}.get(subtype, 1e-6))


def test_a_slice_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    path.write_bytes(b"before" + wav() + b"after")
    assert torch.equal(read_audio(FileSlice(path, 6, len(wav()))).samples, FULL_SCALE)
    with pytest.raises(OSError, match=r"many\.tar: expected 999 bytes from 6 on, got 75"):
        read_audio(FileSlice(path, 6, 999))


WAV, SPHERE = wav(), sphere()
REFUSED = {
    "empty": (b"", "expected a sound file, got an empty one"),
    "text": (b"<html></html>", r"expected a WAV file \(RIFF\) or a NIST SPHERE file \(NIST_1A\), got .*b'<html></'"),
    "flac": (b"fLaC" + bytes(99), "got one that starts with b'fLaC"),
    "shorten": (
        sphere(coding="pcm,embedded-shorten-v2.00"),
        "sample_coding 'pcm,embedded-shorten-v2.00'; convert it with LDC's sph2pipe",
    ),
    "wavpack": (sphere(coding="pcm,embedded-wavpack-v1.0"), "sph2pipe"),
    "riff header alone": (WAV[:12], "without a data chunk: cut short"),
    "riff without data": (WAV[: WAV.index(b"data")], "without a data chunk: cut short"),
    "riff cut short": (WAV[:-1], "expected 14 bytes of samples, got 13: cut short"),
    "riff without samples": (wav(SAMPLES[:0]), "expected sound, got a file of no samples"),
    "riff with a size of zero": (wav(size=0), "expected sound, got a file of no samples"),
    "riff of no known form": (WAV.replace(b"fmt ", b"fmt?"), "expected a readable sound file"),
    "sphere header cut short": (SPHERE[:500], "expected a whole SPHERE header, got one cut short or damaged"),
    "sphere header length": (SPHERE.replace(b"   1024", b"   10x4"), "expected a whole SPHERE header"),
    "sphere cut short": (SPHERE[:-1], "expected 1038 bytes, got 1037: cut short"),
    "sphere claims more": (sphere(count=100), "expected 1224 bytes, got 1038: cut short"),
    "sphere without samples": (sphere(SAMPLES[:0]), "expected sound, got a file of no samples"),
    "sphere without a rate": (SPHERE.replace(b"sample_rate", b"sample_late"), "expected a readable sound file"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_wrong_files_are_refused(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    (tmp_path / "wrong.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"read_audio: .*wrong\.wav: .*{message}"):
        read_audio(tmp_path / "wrong.wav")


def test_a_missing_file_stays_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "absent.wav")


def test_ten_minutes_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(600 * 1000, np.int16), 1000)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("samples were read"))
    with pytest.raises(ValueError, match=r"long\.wav: expected at most max_seconds = 60 s, got 600.0 s"):
        read_audio(tmp_path / "long.wav")


def test_ten_minutes_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(600 * 1000, np.int16), 1000)
    assert read_audio(tmp_path / "long.wav", max_seconds=math.inf).samples.shape == (1, 600_000)


@given(position=st.integers(0, 1200), value=st.integers(0, 255), cut=st.integers(0, 1200), riff=st.booleans())
def test_any_change_of_one_byte_and_any_cut_reads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: int, riff: bool
) -> None:
    content = bytearray(WAV if riff else SPHERE)
    content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content[: cut % (len(content) + 1)])
    outcome: Waveform | str
    try:
        outcome = read_audio(path)
    except ValueError as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert str(path) in outcome
    else:
        assert outcome.samples.numel() > 0
        assert outcome.sample_rate > 0


def test_without_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.wav").write_bytes(WAV)
    with pytest.raises(ImportError, match=r"reading sound files needs soundfile.*pip install spikefuse\[app\]"):
        read_audio(tmp_path / "a.wav")
