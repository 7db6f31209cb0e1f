"""Targets of an audiocoder: the hidden states of images, with a chosen number of bits each.

Source: Roy, Panda & Roy (2019), doi 10.3389/fnins.2019.00621, section 3.2.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from torch import Tensor

from spikefuse.functional.poisson import poisson_encode
from spikefuse.packed import PackedSpikes
from spikefuse.paper.models.autoencoder import SpikingAutoencoder

HALF_PRECISION_BITS: Final = 16
"""Bits of a hidden vector's element that is not quantized, but held in half precision."""


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenMaps:
    """Stored hidden spikes of images, shown to an audiocoder again and again.

    Args:
        spikes: ``[Th, M, H]``: the first Th steps of M images, one bit for each of H hidden neurons and step.

    Raises:
        ValueError: spikes of another number of dimensions, or of no step.

    Example:
        >>> maps = HiddenMaps(PackedSpikes.pack((torch.rand(15, 10, 196) < 0.3).float()))
        >>> maps.duration, maps.first(2).duration, round(maps.compression(784), 2), maps.first(1).compression(784)
        (15, 2, 2.13, 32.0)
        >>> maps.targets(torch.tensor([3, 3, 0]), steps=60).shape
        torch.Size([60, 3, 196])
    """

    spikes: PackedSpikes

    def __post_init__(self) -> None:
        if len(self.spikes.shape) != 3 or self.spikes.shape[0] < 1:
            raise ValueError(f"HiddenMaps: expected spikes of shape [Th >= 1, M, H], got {list(self.spikes.shape)}")

    @property
    def duration(self) -> int:
        """Th, in time steps."""
        return self.spikes.shape[0]

    def __len__(self) -> int:
        """Number of images M."""
        return self.spikes.shape[1]

    def first(self, duration: int) -> HiddenMaps:
        """The first steps alone: what would have been stored with this Th.

        Args:
            duration: Th, 1 to this one's.

        Raises:
            ValueError: another duration.
        """
        if not 1 <= duration <= self.duration:
            raise ValueError(f"HiddenMaps.first: expected duration of 1 to {self.duration}, got {duration}")
        return HiddenMaps(self.spikes[:duration])

    def targets(self, images: Tensor, steps: int) -> PackedSpikes:
        """Target spikes of one batch: at step t = 1, 2, ... slice ``t mod Th`` of each sample's map.

        Args:
            images: index of each sample's image, int64 ``[B]``.
            steps: T, >= 0.

        Returns:
            ``[T, B, H]``.

        Raises:
            TypeError: indices of another dtype.
            ValueError: indices that are not ``[B]`` or name no image, or ``steps`` below 0.
        """
        if images.dtype != torch.int64:
            raise TypeError(f"HiddenMaps.targets: expected images as int64 indices, got {images.dtype}")
        if images.dim() != 1 or (len(images) and not 0 <= int(images.min()) <= int(images.max()) < len(self)):
            raise ValueError(f"HiddenMaps.targets: expected images as indices [B] of 0 to {len(self) - 1}")
        if steps < 0:
            raise ValueError(f"HiddenMaps.targets: expected steps >= 0, got {steps}")
        device = self.spikes.device
        slices = torch.arange(1, steps + 1, device=device) % self.duration
        words = self.spikes.words.index_select(1, images.to(device)).index_select(0, slices)
        return PackedSpikes(words, self.spikes.num_neurons)

    def compression(self, pixels: int, bits_per_pixel: int = 8) -> float:
        """How many times smaller a stored map is than its image.

        Args:
            pixels: of an image.
            bits_per_pixel: of an image.
        """
        return pixels * bits_per_pixel / (self.duration * self.spikes.num_neurons)


def hidden_maps(
    model: SpikingAutoencoder, images: Tensor, *, duration: int, max_rate: float, seed: int, offset: int = 0
) -> HiddenMaps:
    """Encodes images as Poisson spikes and stores the hidden spikes that they cause in a trained autoencoder.

    The first steps of a longer encoding are those of a shorter one, so ``duration=15`` and ``first(5)`` give what
    ``duration=5`` gives.

    Args:
        model: the autoencoder.
        images: ``[M, in_features]`` in [0, 1].
        duration: Th in time steps, >= 1; the paper has 15, 10, 5, 2 and 1.
        max_rate: spike probability per step of a pixel of value 1, in (0, 1].
        seed: of the Poisson spikes, 0 <= seed < 2^63.
        offset: their stream; see :func:`spikefuse.functional.poisson_encode`.

    Raises:
        TypeError, ValueError: images of another shape, dtype or range, or a number outside its range.

    Example:
        >>> from spikefuse.paper.models import preset
        >>> model = SpikingAutoencoder(64, 32, preset("shared", 64).rule)
        >>> len(hidden_maps(model, torch.rand(10, 64), duration=5, max_rate=0.3, seed=0))
        10
    """
    if duration < 1:
        raise ValueError(f"hidden_maps: expected duration >= 1, got {duration}")
    if not 0 < max_rate <= 1:
        raise ValueError(f"hidden_maps: expected 0 < max_rate <= 1, got {max_rate}")
    inputs = poisson_encode(images * max_rate, duration, seed=seed, offset=offset)
    return HiddenMaps(model.encode(inputs))


def quantized(hidden: Tensor, bits: int) -> Tensor:
    """Hidden vectors of an artificial network at few bits: 2^bits evenly spaced levels from 0 to their largest value.

    At 16 bits they are rounded to half precision instead, the paper's "16 bit full precision".

    Args:
        hidden: fp32 ``[M, H]``, >= 0; one scale for all.
        bits: 1 to 16; the paper takes Th bits, to compare with a map of Th spikes.

    Raises:
        ValueError: other bits, or a value that is negative or not finite.

    Example:
        >>> quantized(torch.tensor([[0.0, 0.4, 0.6, 3.0]]), 2)
        tensor([[0., 0., 1., 3.]])
    """
    if not 1 <= bits <= HALF_PRECISION_BITS:
        raise ValueError(f"quantized: expected bits of 1 to {HALF_PRECISION_BITS}, got {bits}")
    if hidden.numel() and not (bool(torch.isfinite(hidden).all()) and float(hidden.min()) >= 0):
        raise ValueError("quantized: expected finite hidden values >= 0")
    if bits == HALF_PRECISION_BITS:
        return hidden.half().to(hidden.dtype)
    largest = float(hidden.max()) if hidden.numel() else 0.0
    if largest == 0:
        return hidden.clone()
    levels = 2**bits - 1
    return hidden.div(largest / levels).round().mul(largest / levels)
