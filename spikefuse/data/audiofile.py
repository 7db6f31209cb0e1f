"""Reading of sound files: WAV and NIST SPHERE, told apart by their content, with every way they can be wrong named."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

import torch
from torch import Tensor

from spikefuse._io import folders
from spikefuse._io.optional import require

MAX_SECONDS: Final = 60.0
"""Longest recording that is read unless a caller allows more."""

_RIFF: Final[dict[bytes, Literal["little", "big"]]] = {b"RIFF": "little", b"RIFX": "big"}
_SPHERE: Final = b"NIST_1A\n"
_MAX_SPHERE_HEADER: Final = 1 << 20
_UNKNOWN_SIZE: Final = 0xFFFFFFFF
"""Data size written by programs that write to a pipe and do not know it."""


class Waveform(NamedTuple):
    """Sound as ``torchaudio.load`` returns it.

    Attributes:
        samples: float32 ``[channel, time]``, full scale ±1.
        sample_rate: in Hz.
    """

    samples: Tensor
    sample_rate: int


@dataclass(frozen=True)
class FileSlice:
    """Some or all bytes of a file: a sound file of its own, or one inside an uncompressed tar.

    Attributes:
        path: the file.
        offset: first byte.
        size: number of bytes; None for all to the end.
    """

    path: Path
    offset: int = 0
    size: int | None = None

    def open(self) -> IO[bytes]:
        """Opens the bytes for reading.

        Raises:
            OSError: the file cannot be opened or read, or is shorter than it was.
        """
        if self.offset == 0 and self.size is None:
            return folders.open_file(self.path)
        with folders.open_file(self.path) as file:
            file.seek(self.offset)
            content = file.read(-1 if self.size is None else self.size)
        if self.size is not None and len(content) != self.size:
            raise OSError(f"{self.path}: expected {self.size} bytes from {self.offset} on, got {len(content)}")
        return io.BytesIO(content)


def read_audio(source: str | PathLike[str] | FileSlice, *, max_seconds: float = MAX_SECONDS) -> Waveform:
    """Reads one WAV or NIST SPHERE file, told by its first bytes, whatever its name.

    Stereo is read as it is; whoever takes the samples decides what becomes of it. Nothing is resampled, scaled or
    trimmed, and silent or clipped sound is sound like any other. The length is checked before samples are read.

    Args:
        source: the file, or a slice of one.
        max_seconds: longest recording allowed.

    Returns:
        float32 samples ``[channel, time]`` and the sample rate in Hz.

    Raises:
        ValueError: the file is empty, of another format, damaged or cut short, holds no samples, or is longer than
            ``max_seconds``; or it is compressed with shorten or another coder, which LDC's sph2pipe undoes.
        OSError: the file cannot be opened or read.
        ImportError: soundfile is not installed.

    Example:
        >>> import pathlib, soundfile, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tone.wav")
        ...     soundfile.write(path, [0.0, 0.5, -0.5], 8000)
        ...     read_audio(path)
        Waveform(samples=tensor([[ 0.0000,  0.5000, -0.5000]]), sample_rate=8000)
    """
    piece = source if isinstance(source, FileSlice) else FileSlice(Path(source))
    soundfile = require("soundfile", "soundfile", "reading sound files")
    with piece.open() as file:
        _check_container(file, piece.path)
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as sound:
                if sound.frames == 0:
                    raise ValueError(f"read_audio: {piece.path}: expected sound, got a file of no samples")
                seconds = sound.frames / sound.samplerate
                if seconds > max_seconds:
                    raise ValueError(
                        f"read_audio: {piece.path}: expected at most max_seconds = {max_seconds:g} s, got "
                        f"{seconds:.1f} s; cut it into utterances, or raise max_seconds"
                    )
                samples = sound.read(dtype="float32", always_2d=True)
                announced, rate = sound.frames, sound.samplerate
        except soundfile.LibsndfileError as error:
            raise ValueError(f"read_audio: {piece.path}: expected a readable sound file: {error}") from error
    if len(samples) != announced:
        raise ValueError(f"read_audio: {piece.path}: expected {announced} samples, got {len(samples)}: damaged")
    return Waveform(torch.from_numpy(samples.T.copy()), int(rate))


def _check_container(file: IO[bytes], path: Path) -> None:
    """Refuses what libsndfile would misread or explain badly."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(len(_SPHERE))
    if not magic:
        raise ValueError(f"read_audio: {path}: expected a sound file, got an empty one")
    if magic[:4] in _RIFF:
        _check_riff(file, path, size, _RIFF[magic[:4]])
    elif magic == _SPHERE:
        _check_sphere(file, path, size)
    elif magic[:4] != b"RF64":
        raise ValueError(
            f"read_audio: {path}: expected a WAV file (RIFF) or a NIST SPHERE file (NIST_1A), got one that starts "
            f"with {magic!r}"
        )


def _check_riff(file: IO[bytes], path: Path, size: int, byte_order: Literal["little", "big"]) -> None:
    """Refuses a WAV file that ends before its data does, which libsndfile would silently read as a shorter one."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = file.read(4), int.from_bytes(file.read(4), byte_order)
        if name == b"data":
            if length != _UNKNOWN_SIZE and position + 8 + length > size:
                raise ValueError(
                    f"read_audio: {path}: expected {length} bytes of samples, got {size - position - 8}: cut short"
                )
            return
        position += 8 + length + length % 2
    raise ValueError(f"read_audio: {path}: expected a WAV file with samples, got one without a data chunk: cut short")


def _check_sphere(file: IO[bytes], path: Path, size: int) -> None:
    """Refuses compressed SPHERE files, and ones that end before their samples do."""
    length_field = file.read(8).strip()
    length = int(length_field) if length_field.isdigit() else 0
    if not 16 < length <= min(size, _MAX_SPHERE_HEADER):
        raise ValueError(f"read_audio: {path}: expected a whole SPHERE header, got one cut short or damaged")
    file.seek(16)
    fields = dict(
        re.findall(
            r"^(\w+)\s+-\w+\s+(.*?)\s*$", file.read(length - 16).decode("latin-1").partition("end_head")[0], re.M
        )
    )
    coding = fields.get("sample_coding", "pcm").lower()
    if coding not in ("pcm", "ulaw", "alaw", "mu-law", "a-law"):
        raise ValueError(
            f"read_audio: {path}: expected uncompressed samples, got sample_coding {coding!r}; convert it with LDC's "
            f"sph2pipe (sph2pipe -f wav {path.name} {path.stem}-pcm.wav)"
        )
    counts = [fields.get(name, "") for name in ("sample_count", "channel_count", "sample_n_bytes")]
    if all(count.isdigit() for count in counts):
        needed = length + int(counts[0]) * int(counts[1]) * int(counts[2])
        if needed > size:
            raise ValueError(f"read_audio: {path}: expected {needed} bytes, got {size}: cut short")
