"""The type of every loaded data set."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set of labelled grey images, flattened for fully connected layers.

    Attributes:
        name: name of the data set, one of ``spikefuse.data.DATASETS``.
        split: ``"train"`` or ``"test"``.
        images: float32 ``[N, H * W]`` in [0, 1], rows of pixels one after the other; times a maximum rate, the
            probability of a spike per step.
        labels: int64 ``[N]`` in ``[0, num_classes)``.
        image_shape: ``(H, W)`` in pixels.
        num_classes: number of classes.
        source: where the data was found: ``"SPIKEFUSE_DATA"``, ``"cache"``, ``"download"`` or ``"scikit-learn"``.

    Example:
        >>> import torch
        >>> Dataset("tiny", "test", torch.zeros(3, 4), torch.tensor([0, 1, 0]), (2, 2), 2, "cache")
        Dataset(name='tiny', split='test', image_shape=(2, 2), num_classes=2, source='cache')
    """

    name: str
    split: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    image_shape: tuple[int, int]
    num_classes: int
    source: str

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.images)


def fingerprint(values: Tensor) -> int:
    """CRC-32 of numbers as fp32: tells a resumed run that it was given other ones.

    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.ones(2))
    False
    """
    return zlib.crc32(values.detach().to("cpu", torch.float32).contiguous().numpy().view("uint8").data)
