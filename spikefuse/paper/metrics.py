"""How far apart two sets of images or spike maps are, whatever their brightness and contrast."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_CHUNK_ROWS: Final = 4096


def normalize_maps(x: Tensor) -> Tensor:
    """Shifts and scales every map to zero mean and unit variance: ``(x - mean) / std`` over the last dimension.

    The variance is the population's (divided by N). A constant map, such as a silent net's, becomes zeros. Finite
    values of any size are normalised without overflow or underflow.

    Args:
        x: ``[..., N]`` of any real dtype or bool: images, or spikes summed over time.

    Returns:
        float64 ``[..., N]``, without gradient; empty where ``x`` is.

    Raises:
        TypeError: ``x`` is not a tensor of real numbers.
        ValueError: ``x`` has no dimension, or holds NaN or infinity.

    Source:
        Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621.

    Example:
        >>> normalize_maps(torch.tensor([[0, 0, 2, 2], [3, 3, 3, 3]]))
        tensor([[-1., -1.,  1.,  1.],
                [ 0.,  0.,  0.,  0.]], dtype=torch.float64)
    """
    _check_maps("normalize_maps", "x", x)
    if x.dim() == 0:
        raise ValueError("normalize_maps: expected x of shape [..., N], got a scalar")
    return _normalize("normalize_maps", "x", x)


def mse(a: Tensor, b: Tensor) -> float:
    """Mean squared difference of two sets of maps, each map normalised first.

    ``mean over b and n of (norm(a)[b, n] - norm(b)[b, n])^2``: 0 for equal maps, 2 for uncorrelated ones, 4 for a map
    and its negative. A constant map scores 1 against one that is not, so a silent net scores 1. With the variance
    divided by N - 1 instead, every score would be (N - 1) / N of this one: 0.9987 for a silent net at N = 784.

    Args:
        a: ``[B, N]`` of any real dtype or bool, such as reconstructions.
        b: ``[B, N]``, such as the images.

    Raises:
        TypeError: an argument is not a tensor of real numbers.
        ValueError: the shapes or devices differ, are not ``[B, N]``, B or N is 0, or a value is NaN or infinite.

    Source:
        Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621: the paper's MSE, with the images as ``b``.

    Example:
        >>> image = torch.tensor([[0.0, 0.5, 1.0]])
        >>> [round(mse(output, image), 6) for output in (3 * image + 1, -image, torch.zeros(1, 3))]
        [0.0, 4.0, 1.0]
    """
    return _mean_squared_difference("mse", "a", a, "b", b)


def spike_mse(output_counts: Tensor, input_counts: Tensor) -> float:
    """The :func:`mse` between the spikes that a net emitted and those it was given, each summed over time.

    The normalisation makes it independent of how many steps were summed.

    Args:
        output_counts: ``[B, N]`` spikes of each output neuron, such as ``PackedSpikes.counts()``.
        input_counts: ``[B, N]`` spikes of each input neuron.

    Raises:
        TypeError: an argument is not a tensor of real numbers.
        ValueError: the shapes or devices differ, are not ``[B, N]``, B or N is 0, or a value is NaN or infinite.

    Source:
        Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621: the paper's Spike-MSE.

    Example:
        >>> spike_mse(torch.tensor([[4, 0, 2, 2]]), torch.tensor([[8, 0, 4, 4]]))
        0.0
    """
    return _mean_squared_difference("spike_mse", "output_counts", output_counts, "input_counts", input_counts)


def nearest_mse(outputs: Tensor, labels: Tensor, images: Tensor, image_labels: Tensor) -> Tensor:
    """For each output the lowest :func:`mse` over the images of its label: the paper's test metric of data set B.

    With one image for each label it is the metric of data set A, whose mean is :func:`mse`.

    Args:
        outputs: ``[B, N]`` of any real dtype, such as spikes summed over time.
        labels: class of each output, int64 ``[B]``.
        images: ``[M, N]``, such as the training images.
        image_labels: int64 ``[M]``.

    Returns:
        float64 ``[B]``.

    Raises:
        TypeError: an argument is not a tensor of real numbers.
        ValueError: shapes that do not fit, a value that is NaN or infinite, or a label without an image.

    Source:
        Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621, section 3.2.3.

    Example:
        >>> images = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
        >>> outputs = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0]])
        >>> nearest_mse(outputs, torch.tensor([0, 1]), images, torch.tensor([0, 0, 1])).round(decimals=6).tolist()
        [0.0, 1.0]
    """
    for name, value, names in (("outputs", outputs, labels), ("images", images, image_labels)):
        _check_maps("nearest_mse", name, value)
        if value.dim() != 2 or value.shape[1] != outputs.shape[-1] or names.shape != value.shape[:1]:
            raise ValueError(
                f"nearest_mse: expected {name} of shape [B, N] with one label each, got {list(value.shape)} and "
                f"{list(names.shape)}"
            )
    lowest = torch.empty(len(outputs), dtype=torch.float64)
    for label in labels.unique().tolist():
        rows, candidates = labels == label, image_labels == label
        if not bool(candidates.any()):
            raise ValueError(f"nearest_mse: expected at least one image of class {label}, got none")
        a = _normalize("nearest_mse", "outputs", outputs[rows])
        b = _normalize("nearest_mse", "images", images[candidates])
        # |a - b|^2 = |a|^2 - 2ab + |b|^2: one product in place of differences of all pairs.
        squares = a.square().sum(1, keepdim=True) - 2 * (a @ b.t()) + b.square().sum(1)
        lowest[rows.cpu()] = squares.amin(1).clamp(min=0).cpu() / a.shape[1]
    return lowest


def _mean_squared_difference(function: str, name_a: str, a: Tensor, name_b: str, b: Tensor) -> float:
    _check_maps(function, name_a, a)
    _check_maps(function, name_b, b)
    if a.dim() != 2:
        raise ValueError(f"{function}: expected {name_a} of shape [B, N], got {list(a.shape)}")
    if b.shape != a.shape:
        raise ValueError(f"{function}: expected {name_b} of {name_a}'s shape {list(a.shape)}, got {list(b.shape)}")
    if a.numel() == 0:
        raise ValueError(f"{function}: expected at least one map of at least one element, got shape {list(a.shape)}")
    if b.device != a.device:
        raise ValueError(f"{function}: expected {name_b} on {name_a}'s device {a.device}, got {b.device}")
    total = 0.0
    # By blocks of rows: float64 copies of a whole training set would take gigabytes.
    for start in range(0, len(a), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        difference = _normalize(function, name_a, a[rows]) - _normalize(function, name_b, b[rows])
        total += float(difference.square().sum())
    return total / a.numel()


def _check_maps(function: str, name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: expected {name} as a tensor, got {type(x).__name__}")
    if x.is_complex():
        raise TypeError(f"{function}: expected {name} of a real dtype, got {x.dtype}")


def _normalize(function: str, name: str, x: Tensor) -> Tensor:
    maps = x.detach().to(torch.float64)
    if maps.numel() == 0:
        return maps
    bad = int((~torch.isfinite(maps)).sum())
    if bad:
        raise ValueError(f"{function}: expected finite values in {name}, got {bad} NaN or infinite")
    # Brought to [0, 1] first, where sums and squares can neither overflow nor vanish, and where a constant map is told
    # by its range: its variance, rounded, need not be 0.
    largest = maps.abs().amax(-1, keepdim=True)
    maps = maps / torch.where(largest > 0, largest, 1.0)
    lowest = maps.amin(-1, keepdim=True)
    span = maps.amax(-1, keepdim=True) - lowest
    constant = span == 0
    maps = (maps - lowest) / torch.where(constant, 1.0, span)
    centred = maps - maps.mean(-1, keepdim=True)
    std = centred.square().mean(-1, keepdim=True).sqrt()
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, std))
