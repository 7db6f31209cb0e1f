"""Data sets of labelled grey images, and corpora of spoken words to pair with them.

Images: MNIST, Fashion-MNIST, and scikit-learn's 8x8 digits, which need no download (:func:`load`). Speech: the Free
Spoken Digit Dataset, TI-46, and folders of labelled recordings (:func:`load_fsdd`, :func:`load_ti46`,
:func:`load_wav_folder`).

Published files are looked for in the folder that the environment variable ``SPIKEFUSE_DATA`` names (the files
in ``mnist/``, ``fashion-mnist/`` and ``fsdd/``, or directly in it), then in the cache (the system's usual place, or
``SPIKEFUSE_CACHE``), and are else downloaded into the cache. Every file is checked by SHA-256 wherever it came from.
Links to files and folders are followed. A path that may not be read, or a link to nothing, is an error that names it.
"""

from __future__ import annotations

from typing import Final

from spikefuse.data.audiofile import Waveform, read_audio
from spikefuse.data.dataset import Dataset
from spikefuse.data.digits import digits_available, load_digits
from spikefuse.data.fsdd import fsdd_available, load_fsdd
from spikefuse.data.idx import read_idx
from spikefuse.data.mnist import load_mnist, mnist_available
from spikefuse.data.pairing import Pairs, pair, pair_with_class_image, pair_with_own_image
from spikefuse.data.recordings import Corpus, Recording
from spikefuse.data.store import DatasetUnavailableError
from spikefuse.data.ti46 import load_ti46, ti46_available
from spikefuse.data.wav_folder import load_wav_folder

__all__ = [
    "DATASETS",
    "SPLITS",
    "Corpus",
    "Dataset",
    "DatasetUnavailableError",
    "Pairs",
    "Recording",
    "Waveform",
    "available",
    "fsdd_available",
    "load",
    "load_fsdd",
    "load_ti46",
    "load_wav_folder",
    "pair",
    "pair_with_class_image",
    "pair_with_own_image",
    "read_audio",
    "read_idx",
    "ti46_available",
]

DATASETS: Final = ("mnist", "fashion-mnist", "digits")
"""Names of images that :func:`load` knows."""

SPLITS: Final = ("train", "test")
"""Splits of every data set and corpus."""


def load(name: str, split: str, *, download: bool = True) -> Dataset:
    """Loads one split of a data set.

    Args:
        name: one of ``DATASETS``.
        split: ``"train"`` or ``"test"``. MNIST and Fashion-MNIST: 60,000 and 10,000 images of 28x28 pixels; digits:
            1,415 and 382 of 8x8, no writer in both.
        download: whether the network may be used where the files are not on this machine.

    Raises:
        ValueError: another name or split; a file whose SHA-256 is not the published one, which is never replaced
            unasked; ``SPIKEFUSE_DATA`` names no folder, or one that holds some of the files but not all.
        DatasetUnavailableError: the files are not here, and the download is not allowed or failed.
        OSError: a folder or file may not be read, or a link leads to a path that does not exist; the message names it.
        ImportError: scikit-learn (for digits) or pooch (for a download) is not installed.

    Example:
        >>> train = load("digits", "train")
        >>> train
        Dataset(name='digits', split='train', image_shape=(8, 8), num_classes=10, source='scikit-learn')
        >>> train.images.shape, train.labels[:4]
        (torch.Size([1415, 64]), tensor([0, 1, 2, 3]))
    """
    _check_choice("load", "name", name, DATASETS)
    _check_choice("load", "split", split, SPLITS)
    return load_digits(split) if name == "digits" else load_mnist(name, split, download=download)


def available(name: str) -> bool:
    """True where :func:`load` finds the data set without a download; the content is checked only by loading it.

    Args:
        name: one of ``DATASETS``.

    Raises:
        ValueError: another name; ``SPIKEFUSE_DATA`` names no folder, or one that holds some of the files but not all.
        OSError: a folder may not be looked into, or a link leads to a path that does not exist; the message names it.

    Example:
        >>> available("digits")
        True
    """
    _check_choice("available", "name", name, DATASETS)
    return digits_available() if name == "digits" else mnist_available(name)


def _check_choice(function: str, argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{function}: expected {argument} of {', '.join(allowed)}, got {value!r}")
