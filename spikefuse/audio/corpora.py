"""Corpora of spoken digits by name, divided and heard."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from torch import Tensor

from spikefuse import data
from spikefuse.audio import Cochleagram
from spikefuse.data import store

CORPORA: Final = ("fsdd", "ti46", "folder")

TI46_TRAINING: Final = 3_500
"""The paper's training recordings, of 4,136 shuffled ones."""

TRAINING_SHARE: Final = 0.85
"""Of a folder that does not divide itself into train/ and test/: as the paper divides TI-46."""

DIVISION_SEED: Final = 0
"""One division for all runs, or their test scores would not compare."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sounds:
    """A corpus divided and heard.

    Attributes:
        train_rates: cochleagrams of the training recordings, ``[N, features]``.
        train_labels: int64 ``[N]``.
        test_rates: the same, of the test half.
        test_labels: the same, of the test half.
        classes: names.
    """

    train_rates: Tensor
    train_labels: Tensor
    test_rates: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]


def divided(corpus: str, folder: Path | None = None) -> tuple[data.Corpus, data.Corpus]:
    """Training and test recordings, the training ones in an order that mixes classes and speakers.

    Args:
        corpus: "fsdd" (2,700 and 300, its own division), "ti46" (3,500 and 636, shuffled, as in the paper), or "folder"
            (its own train/ and test/, else 85 % and 15 % of it, shuffled).
        folder: of "folder" and, where it is not in SPIKEFUSE_DATA, "ti46".

    Raises:
        ValueError: another corpus, a folder that is needed or has no meaning, or one that cannot be used.
        DatasetUnavailableError: the corpus is not on this machine and could not be downloaded.
    """
    if corpus not in CORPORA:
        raise ValueError(f"corpus: expected one of {', '.join(CORPORA)}, got {corpus!r}")
    if corpus == "fsdd":
        if folder is not None:
            raise ValueError("folder: has no meaning with corpus fsdd, which is found or downloaded")
        whole = data.load_fsdd()
        return whole.select(split="train").shuffled(DIVISION_SEED), whole.select(split="test")
    if corpus == "ti46":
        whole = data.load_ti46(folder=folder).shuffled(DIVISION_SEED)
        return whole[:TI46_TRAINING], whole[TI46_TRAINING:]
    if folder is None:
        raise ValueError("folder: expected the folder of the recordings with corpus folder, got none")
    whole = data.load_wav_folder(folder)
    train, test = whole.select(split="train").shuffled(DIVISION_SEED), whole.select(split="test")
    if len(train) and len(test):
        return train, test
    whole = whole.shuffled(DIVISION_SEED)
    count = round(TRAINING_SHARE * len(whole))
    if not 0 < count < len(whole):
        raise ValueError(f"folder: expected at least 4 recordings to train on and to test with, got {len(whole)}")
    return whole[:count], whole[count:]


def hear(corpus: str, folder: Path | None = None, limit: int | None = None) -> Sounds:
    """Cochleagrams of a corpus, from the cache where they are there.

    Args:
        corpus: as :func:`divided` takes it.
        folder: likewise.
        limit: the first training recordings alone; None for all.

    Raises:
        ValueError, OSError, ImportError: as :func:`divided`, or as :class:`spikefuse.audio.Cochleagram`.
    """
    train, test = divided(corpus, folder)
    train = train[:limit]
    ear = cochleagram()
    return Sounds(ear.encode(train), train.labels, ear.encode(test), test.labels, train.classes)


def cochleagram() -> Cochleagram:
    """The ear for these corpora: 39 channels x 1,500 frames, kept beside the data sets where there is a place."""
    cache = store.cache_folder()
    return Cochleagram(cache=None if cache is None else cache / "cochleagrams")
