"""Pairing of recordings with images: the paper's data sets A and B."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikefuse.data import pair_with_class_image, pair_with_own_image

labels = st.lists(st.integers(0, 4), max_size=30).map(lambda values: torch.tensor(values, dtype=torch.int64))
images = labels.map(lambda extra: torch.cat([torch.arange(5).repeat(30), extra])).flatmap(
    lambda values: st.permutations(values.tolist()).map(torch.tensor)
)


@given(labels, images)
def test_one_image_for_each_class(labels: torch.Tensor, images: torch.Tensor) -> None:
    pairs = pair_with_class_image(labels, images)
    assert pairs.dtype == torch.int64
    for label, image in zip(labels.tolist(), pairs.tolist(), strict=True):
        assert image == images.tolist().index(label)


@given(labels, images)
def test_the_k_th_recording_of_a_class_has_its_k_th_image(labels: torch.Tensor, images: torch.Tensor) -> None:
    pairs = pair_with_own_image(labels, images)
    assert pairs.dtype == torch.int64
    left = list(enumerate(images.tolist()))
    for label, image in zip(labels.tolist(), pairs.tolist(), strict=True):
        k = next(k for k, (_, of) in enumerate(left) if of == label)
        assert image == left.pop(k)[0]


def test_chosen_images() -> None:
    labels, images = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1, 0])
    assert pair_with_class_image(labels, images, chosen={0: 3, 1: 2}).tolist() == [2, 3, 2]
    with pytest.raises(ValueError, match="expected chosen to name an image of class 1, got none"):
        pair_with_class_image(labels, images, chosen={0: 3})
    with pytest.raises(ValueError, match="expected image 3 to be one of class 1, got one of class 0"):
        pair_with_class_image(labels, images, chosen={0: 3, 1: 3})
    for image in (4, -1):
        with pytest.raises(ValueError, match=f"expected image {image} to be one of class 1, got none"):
            pair_with_class_image(labels, images, chosen={0: 3, 1: image})


def test_too_few_images() -> None:
    labels = torch.tensor([3, 3, 1])
    with pytest.raises(ValueError, match="pair_with_own_image: expected at least 2 images of class 3, got 1"):
        pair_with_own_image(labels, torch.tensor([3, 1, 1]))
    with pytest.raises(ValueError, match="pair_with_class_image: expected at least 1 images of class 1, got 0"):
        pair_with_class_image(labels, torch.tensor([3]))


@pytest.mark.parametrize("pair", [pair_with_class_image, pair_with_own_image])
def test_bad_labels(pair: object) -> None:
    good = torch.tensor([0])
    assert pair(good[:0], good[:0]).shape == (0,)  # type: ignore[operator]
    with pytest.raises(TypeError, match="labels as a tensor of int64, got list"):
        pair([0], good)  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"image_labels as a tensor of int64, got torch\.int32"):
        pair(good, good.int())  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"labels of shape \[N\], got \[1, 1\]"):
        pair(good[None], good)  # type: ignore[operator]
