"""Which image a recording is to call up: the audiocoder's data sets A and B.

Source: Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from spikefuse.data.dataset import fingerprint


def pair_with_class_image(labels: Tensor, image_labels: Tensor, *, chosen: Mapping[int, int] | None = None) -> Tensor:
    """Data set A: every recording of a class is paired with the same image of that class.

    Args:
        labels: of the recordings, int64 ``[N]``.
        image_labels: of the training images, int64 ``[M]``.
        chosen: index of the image of each class; None takes the first image of each.

    Returns:
        int64 ``[N]``, the index of each recording's image.

    Raises:
        TypeError: labels of another dtype.
        ValueError: labels that are not ``[N]``, a class without an image, or a chosen image that is not there or of
            another class.

    Example:
        >>> image_labels = torch.tensor([1, 0, 1, 0])
        >>> pair_with_class_image(torch.tensor([0, 0, 1, 0]), image_labels)
        tensor([1, 1, 0, 1])
        >>> pair_with_class_image(torch.tensor([0, 0, 1, 0]), image_labels, chosen={0: 3, 1: 2})
        tensor([3, 3, 2, 3])
    """
    caller = "pair_with_class_image"
    _check_labels(caller, labels, image_labels)
    pairs = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        images = (image_labels == label).nonzero()[:, 0]
        if chosen is None:
            _check_enough(caller, label, 1, len(images))
            image = int(images[0])
        elif label not in chosen:
            raise ValueError(f"{caller}: expected chosen to name an image of class {label}, got none")
        else:
            image = chosen[label]
            if not 0 <= image < len(image_labels) or image_labels[image] != label:
                given = f"one of class {image_labels[image]}" if 0 <= image < len(image_labels) else "none"
                raise ValueError(f"{caller}: expected image {image} to be one of class {label}, got {given}")
        pairs[labels == label] = image
    return pairs


def pair_with_own_image(labels: Tensor, image_labels: Tensor) -> Tensor:
    """Data set B: the k-th recording of a class is paired with the k-th image of that class, each with its own.

    Args:
        labels: of the recordings in their order, int64 ``[N]``.
        image_labels: of the training images in theirs, int64 ``[M]``.

    Returns:
        int64 ``[N]``, the index of each recording's image; no index twice.

    Raises:
        TypeError: labels of another dtype.
        ValueError: labels that are not ``[N]``, or a class with fewer images than recordings.

    Example:
        >>> pair_with_own_image(torch.tensor([0, 0, 1, 0]), torch.tensor([1, 0, 1, 0, 0]))
        tensor([1, 3, 0, 4])
    """
    caller = "pair_with_own_image"
    _check_labels(caller, labels, image_labels)
    pairs = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        recordings = (labels == label).nonzero()[:, 0]
        images = (image_labels == label).nonzero()[:, 0]
        _check_enough(caller, label, len(recordings), len(images))
        pairs[recordings] = images[: len(recordings)]
    return pairs


def _check_labels(caller: str, labels: Tensor, image_labels: Tensor) -> None:
    for name, value in (("labels", labels), ("image_labels", image_labels)):
        if not isinstance(value, Tensor) or value.dtype != torch.int64:
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{caller}: expected {name} as a tensor of int64, got {given}")
        if value.dim() != 1:
            raise ValueError(f"{caller}: expected {name} of shape [N], got {list(value.shape)}")


def _check_enough(caller: str, label: int, needed: int, images: int) -> None:
    if images < needed:
        raise ValueError(f"{caller}: expected at least {needed} images of class {label}, got {images}")


PAIRINGS: Final = ("A", "B")
"""One image for each class, or one for each recording."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Sounds, and the image that each is to call up.

    Attributes:
        rates: cochleagrams, fp32 ``[N, features]`` in [0, 1].
        labels: class of each sound, int64 ``[N]``.
        images: the distinct images, ``[M, pixels]`` in [0, 1].
        image_labels: int64 ``[M]``.
        chosen: index into ``images`` of each sound's image, int64 ``[N]``.
    """

    rates: Tensor
    labels: Tensor
    images: Tensor
    image_labels: Tensor
    chosen: Tensor

    def __len__(self) -> int:
        """Number of sounds N."""
        return len(self.rates)

    @functools.cached_property
    def fingerprint(self) -> int:
        """CRC-32 of all of it: tells a resumed run that it was given other pairs."""
        parts = (self.rates, self.labels, self.images, self.image_labels, self.chosen)
        return fingerprint(torch.tensor([part for value in parts for part in divmod(fingerprint(value), 2**16)]))


def pair(dataset: str, rates: Tensor, labels: Tensor, images: Tensor, image_labels: Tensor) -> Pairs:
    """Pairs sounds with images of their classes.

    Args:
        dataset: "A": each class with its first image. "B": the k-th sound of a class with its k-th image.
        rates: cochleagrams ``[N, features]``.
        labels: int64 ``[N]``.
        images: to choose from, ``[M, pixels]``.
        image_labels: int64 ``[M]``.

    Raises:
        TypeError: labels of another dtype.
        ValueError: another data set, labels that are not one for each sound or image, or too few images of a class.

    Example:
        >>> sounds, images = torch.rand(3, 20), torch.rand(4, 9)
        >>> pairs = pair("B", sounds, torch.tensor([0, 1, 0]), images, torch.tensor([0, 0, 0, 1]))
        >>> pairs.image_labels, pairs.chosen
        (tensor([0, 0, 1]), tensor([0, 2, 1]))
    """
    if dataset not in PAIRINGS:
        raise ValueError(f"pair: expected dataset as one of {', '.join(PAIRINGS)}, got {dataset!r}")
    if rates.dim() != 2 or len(labels) != len(rates) or len(image_labels) != len(images):
        raise ValueError(
            f"pair: expected one label for each of {len(rates)} sounds and {len(images)} images, got {len(labels)} and "
            f"{len(image_labels)}"
        )
    choose = pair_with_class_image if dataset == "A" else pair_with_own_image
    used, chosen = choose(labels, image_labels).unique(return_inverse=True)
    return Pairs(rates, labels, images[used], image_labels[used], chosen)
