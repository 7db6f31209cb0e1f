"""The type of every corpus of speech: a list of labelled recordings, each read on demand."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import torch
from torch import Tensor

from spikefuse.data.audiofile import MAX_SECONDS, FileSlice, Waveform, read_audio


@dataclass(frozen=True)
class Recording:
    """One labelled recording, not read yet.

    Attributes:
        name: unique in its corpus, such as ``"7_jackson_32.wav"``.
        label: class, 0 to the number of classes less one; of digits, the digit.
        speaker: who speaks; empty where the corpus does not say.
        split: ``"train"`` or ``"test"``, as the corpus divides itself.
        source: where the sound is.

    Example:
        >>> from pathlib import Path
        >>> Recording("7_jackson_32.wav", 7, "jackson", "train", FileSlice(Path("7_jackson_32.wav")))
        Recording(name='7_jackson_32.wav', label=7, speaker='jackson', split='train')
    """

    name: str
    label: int
    speaker: str
    split: str
    source: FileSlice = field(repr=False)

    def load(self, *, max_seconds: float = MAX_SECONDS) -> Waveform:
        """Reads the sound: float32 samples ``[channel, time]``, full scale ±1, and their rate in Hz.

        Args:
            max_seconds: longest recording allowed.

        Raises:
            ValueError, OSError, ImportError: as :func:`spikefuse.data.audiofile.read_audio`.
        """
        return read_audio(self.source, max_seconds=max_seconds)


@dataclass(frozen=True, eq=False)
class Corpus(Sequence[Recording]):
    """Recordings in a fixed order. A slice is a corpus too.

    Attributes:
        name: of the corpus.
        classes: name of each class.
        recordings: the recordings, none read.
        source: where they were found: ``"SPIKEFUSE_DATA"``, ``"cache"``, ``"download"``, or ``"folder"`` where the
            caller named one.

    Example:
        >>> from pathlib import Path
        >>> all_of_it = Corpus("tiny", ("0", "1"), tuple(
        ...     Recording(f"{i}.wav", i % 2, "ann", "test" if i < 2 else "train", FileSlice(Path(f"{i}.wav")))
        ...     for i in range(6)), "folder")
        >>> all_of_it.select(split="train").labels, len(all_of_it[:4]), all_of_it.speakers
        (tensor([0, 1, 0, 1]), 4, ('ann',))
        >>> [recording.name for recording in all_of_it.shuffled(seed=0)]
        ['3.wav', '5.wav', '2.wav', '4.wav', '1.wav', '0.wav']
    """

    name: str
    classes: tuple[str, ...]
    recordings: tuple[Recording, ...] = field(repr=False)
    source: str

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.recordings)

    @overload
    def __getitem__(self, index: int) -> Recording: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: int | slice) -> Recording | Corpus:
        """A recording, or the corpus of a slice."""
        if isinstance(index, slice):
            return replace(self, recordings=self.recordings[index])
        return self.recordings[index]

    def __iter__(self) -> Iterator[Recording]:
        """The recordings in order."""
        return iter(self.recordings)

    @property
    def labels(self) -> Tensor:
        """Class of each recording, int64 ``[N]``."""
        return torch.tensor([recording.label for recording in self.recordings], dtype=torch.int64)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everyone who speaks, in alphabetical order."""
        return tuple(sorted({recording.speaker for recording in self.recordings}))

    def select(self, *, split: str | None = None, speaker: str | None = None) -> Corpus:
        """The recordings of a split, of a speaker, or of both, in the same order.

        Args:
            split: ``"train"`` or ``"test"``; None for both.
            speaker: one of ``speakers``; None for all.

        Raises:
            ValueError: another split, or nobody of that name.
        """
        if split not in (None, "train", "test"):
            raise ValueError(f"Corpus.select: expected split of train, test, got {split!r}")
        if speaker is not None and speaker not in self.speakers:
            raise ValueError(f"Corpus.select: expected speaker of {', '.join(self.speakers)}, got {speaker!r}")
        chosen = (r for r in self.recordings if split in (None, r.split) and speaker in (None, r.speaker))
        return replace(self, recordings=tuple(chosen))

    def shuffled(self, seed: int) -> Corpus:
        """The recordings in an order that depends on ``seed`` alone, on every machine and version of Python.

        ``corpus.shuffled(0)[:3500]`` and ``[3500:]`` divide a corpus anew, whatever its own splits are.

        Raises:
            TypeError: ``seed`` is not an int.
            ValueError: ``seed`` < 0.
        """
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"Corpus.shuffled: expected seed as an int, got {type(seed).__name__}")
        if seed < 0:
            # Python seeds with the absolute value, so two seeds would give one order.
            raise ValueError(f"Corpus.shuffled: expected seed >= 0, got {seed}")
        # Python promises that random() stays what it is for a seed; it does not promise so of shuffle().
        draw = random.Random(seed)
        keys = [draw.random() for _ in self.recordings]
        order = sorted(range(len(self)), key=keys.__getitem__)
        return replace(self, recordings=tuple(self.recordings[i] for i in order))
