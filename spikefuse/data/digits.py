"""The 8x8 handwritten digits that ship inside scikit-learn: the data set that needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

import numpy as np
import torch

from spikefuse._io.optional import require
from spikefuse.data.dataset import Dataset

NAME: Final = "digits"

NUM_TRAIN: Final = 1415
"""Samples of the training split. The 1,797 samples lie writer after writer: each filled in a form that begins with the
digits 0 to 9 three times over, and such a form begins at this index, the last one that leaves a fifth for the test."""

_MAX_PIXEL: Final = 16.0


def digits_available() -> bool:
    """True where scikit-learn, which holds the data, is installed.

    >>> isinstance(digits_available(), bool)
    True
    """
    return find_spec("sklearn") is not None


def load_digits(split: str) -> Dataset:
    """Loads a split of the digits: the first 1,415 samples to train, the last 382 to test.

    The order is the data set's own, unshuffled, so no writer is in both splits.

    Args:
        split: ``"train"`` or ``"test"``.

    Raises:
        ValueError: ``split`` is another word.
        ImportError: scikit-learn is not installed.

    Example:
        >>> digits = load_digits("test")
        >>> digits.images.shape, digits.image_shape
        (torch.Size([382, 64]), (8, 8))
    """
    rows = {"train": slice(None, NUM_TRAIN), "test": slice(NUM_TRAIN, None)}
    if split not in rows:
        raise ValueError(f"load_digits: expected split of {', '.join(rows)}, got {split!r}")
    bunch = require("sklearn.datasets", "scikit-learn", f"the data set {NAME!r}").load_digits()
    pixels = np.asarray(bunch.data, dtype=np.float32) / np.float32(_MAX_PIXEL)
    labels = np.asarray(bunch.target, dtype=np.int64)
    return Dataset(
        name=NAME,
        split=split,
        images=torch.from_numpy(pixels[rows[split]].copy()),
        labels=torch.from_numpy(labels[rows[split]].copy()),
        image_shape=(8, 8),
        num_classes=10,
        source="scikit-learn",
    )
