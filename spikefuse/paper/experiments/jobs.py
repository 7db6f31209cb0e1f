"""One training and what is measured on it: the unit that is run once, kept, and shared by all figures that show it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any, Final

_STEP_COST: Final = 5.4e-9
"""Seconds of one core per synapse and step of a batch of 100 that learns online; rough, to tell how much is left."""

_GATED_COST: Final = 1.8
_UNMASKED_COST: Final = 5.0
_ANN_COST: Final = 8e-11
_SOUND_COST: Final = 1.2e-11
"""Likewise per synapse, step and recording of an audiocoder, whose first layer is event-driven."""

_PIXELS: Final = {"mnist": 784, "fashion-mnist": 784, "digits": 64}
_COCHLEAGRAM: Final = 58_500
"""39 channels x 1,500 frames."""


@dataclasses.dataclass(frozen=True)
class ImageJob:
    """An autoencoder trained on images.

    Attributes:
        dataset: one of ``spikefuse.data.DATASETS``.
        method: "shared" or "gated", the readings of the online rule, or "ann".
        hidden: hidden neurons.
        steps: T; without meaning for "ann", like the rate, leak and mask.
        max_rate: spike probability per step of a white pixel.
        leak: share of v lost in a step.
        masked: False trains without the mask of eq 6, in plain PyTorch.
        optimizer: "adam" or "sgd".
        lr: learning rate.
        weight_decay: decoupled for the spiking net, added to the gradient for "ann".
        epochs: passes over the images.
        batch_size: images.
        limit: the first training images alone; None for all.
        test_limit: the first images of each split alone that it is measured on; None for 10,000.
        seed: of weights, order and spikes.

    Example:
        >>> a, b = ImageJob(), ImageJob(seed=1)
        >>> a.key == ImageJob().key, a.key == b.key
        (True, False)
    """

    dataset: str = "mnist"
    method: str = "shared"
    hidden: int = 196
    steps: int = 15
    max_rate: float = 0.3
    leak: float = 0.1
    masked: bool = True
    optimizer: str = "adam"
    lr: float = 5e-4
    weight_decay: float = 0.0
    epochs: int = 1
    batch_size: int = 100
    limit: int | None = None
    test_limit: int | None = None
    seed: int = 0

    KIND = "autoencoder"

    @property
    def key(self) -> str:
        """Name of its files: a hash of everything that its result depends on."""
        return _key(self.KIND, dataclasses.asdict(self))

    def settings(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @property
    def layers(self) -> tuple[int, ...]:
        """Neurons of its inputs and of each layer.

        >>> ImageJob().layers
        (784, 196, 784)
        """
        pixels = _PIXELS[self.dataset]
        return pixels, self.hidden, pixels

    @property
    def cost(self) -> float:
        """About how many seconds of one core it takes; only ratios matter."""
        images = (self.limit or 60_000) * self.epochs
        synapses = _synapses(self.layers)
        if self.method == "ann":
            return 1 + images * synapses * _ANN_COST * 3
        factor = (_GATED_COST if self.method == "gated" else 1.0) * (1.0 if self.masked else _UNMASKED_COST)
        return 1 + images / 100 * (synapses * self.steps * _STEP_COST + 0.002) * factor


@dataclasses.dataclass(frozen=True)
class SoundJob:
    """A net that makes images of sound, trained on recordings paired with images.

    Attributes:
        autoencoder: the job that trains the autoencoder; its method and rate are this one's too.
        pairing: "A", one image for each class, or "B", one for each recording.
        duration: Th, steps of a stored hidden map; bits of a hidden vector's element for "ann".
        hidden: hidden neurons of the audiocoder.
        steps: T.
        max_rate: spike probability per step of loud sound.
        leak: share of v lost in a step.
        optimizer: "adam" or "sgd".
        lr: learning rate.
        weight_decay: as in :class:`ImageJob`.
        epochs: passes over the recordings.
        batch_size: recordings.
        corpus: "fsdd" or "ti46".
        limit: the first training recordings alone; None for all.
        seed: of weights, order and spikes.

    Example:
        >>> SoundJob(ImageJob()).method
        'shared'
    """

    autoencoder: ImageJob
    pairing: str = "A"
    duration: int = 15
    hidden: int = 2048
    steps: int = 60
    max_rate: float = 0.02
    leak: float = 0.1
    optimizer: str = "adam"
    lr: float = 5e-5
    weight_decay: float = 0.0
    epochs: int = 20
    batch_size: int = 50
    corpus: str = "fsdd"
    limit: int | None = None
    seed: int = 0

    KIND = "audio-to-image"

    @property
    def method(self) -> str:
        """Of both nets."""
        return self.autoencoder.method

    @property
    def key(self) -> str:
        """Name of its files: a hash of everything that its result depends on."""
        return _key(self.KIND, dataclasses.asdict(self))

    def settings(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @property
    def layers(self) -> tuple[int, ...]:
        """Neurons of its inputs and of each layer, the autoencoder's second one too.

        >>> SoundJob(ImageJob()).layers
        (58500, 2048, 196, 784)
        """
        return _COCHLEAGRAM, self.hidden, *self.autoencoder.layers[1:]

    @property
    def cost(self) -> float:
        """About how many seconds of one core it takes; only ratios matter."""
        sounds = (self.limit or 2_700) * self.epochs
        synapses = self.layers[0] * self.layers[1]
        if self.method == "ann":
            return 3 + sounds * synapses * _ANN_COST * 3
        factor = _GATED_COST if self.method == "gated" else 1.0
        return 5 + sounds * synapses * self.steps * _SOUND_COST * factor


Job = ImageJob | SoundJob


def with_seed(job: Job, seed: int) -> Job:
    """The same job on another seed, its autoencoder too.

    >>> with_seed(SoundJob(ImageJob()), 3).autoencoder.seed
    3
    """
    if isinstance(job, SoundJob):
        return dataclasses.replace(job, autoencoder=dataclasses.replace(job.autoencoder, seed=seed), seed=seed)
    return dataclasses.replace(job, seed=seed)


def _synapses(layers: tuple[int, ...]) -> int:
    return sum(a * b for a, b in itertools.pairwise(layers))


def _key(kind: str, settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([kind, settings], sort_keys=True).encode()).hexdigest()[:16]
