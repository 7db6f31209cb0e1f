"""Training and evaluation of the autoencoders on images: order, encoding, history, everything from one seed.

The same seed gives the same spiking network, bit for bit, for any number of threads. Nothing random has a hidden
state: the order of an epoch depends on the seed and the epoch, the Poisson spikes of a batch on the seed and the number
of the batch. A run's whole progress is therefore its weights and how many batches it has done, and
:mod:`spikefuse.checkpoint` can take it up again in the middle of an epoch.

Poisson streams (the ``offset`` of :func:`spikefuse.functional.poisson_encode`), so that no draw is ever used twice:

==================== =====================================
0 to 2^31 - 1        training, by the number of the batch
2^31 on              evaluation on training images
2^31 + 2^30 on       evaluation on test images
2^32 - 2^20 on       pictures
==================== =====================================
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import time
import zlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from spikefuse import metrics
from spikefuse.functional import poisson_encode
from spikefuse.models import ANNAutoencoder, SpikingAutoencoder
from spikefuse.packed import PackedSpikes

Autoencoder = SpikingAutoencoder | ANNAutoencoder

STREAMS: Final[dict[str, int]] = {"train": 2**31, "test": 2**31 + 2**30, "pictures": 2**32 - 2**20}
"""First Poisson stream of each kind of evaluation."""

EVALUATION_BATCH: Final = 500
"""Images encoded at a time in an evaluation. Fixed, because a draw depends on the image's place in its batch."""

SPIKING_COLUMNS: Final = ("spike_mse", "loss", "error_zeros", "hidden_rate", "output_rate")
ANN_COLUMNS: Final = ("mse", "loss")


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed in [0, 2^63) for one purpose, unrelated to those for other purposes, indices and seeds.

    >>> derived_seed(0, "order", 1) == derived_seed(1, "order", 0)
    False
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def weight_generator(seed: int) -> torch.Generator:
    """The generator of a run's initial weights.

    >>> torch.rand(2, generator=weight_generator(0)).equal(torch.rand(2, generator=weight_generator(0)))
    True
    """
    return torch.Generator().manual_seed(derived_seed(seed, "weights"))


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run that are not the model's.

    Args:
        epochs: passes over the images, >= 0.
        batch_size: images in a batch, >= 1; the last batch of an epoch may be smaller.
        steps: time steps T of an image's spikes, >= 1; without meaning for the artificial network.
        max_rate: spike probability per step of a pixel of value 1, in (0, 1]; likewise.
        seed: 0 <= seed < 2^63.

    Raises:
        TypeError: a number of another type.
        ValueError: one outside its range.

    Example:
        >>> TrainSettings(max_rate=0.3).steps
        15
    """

    epochs: int = 1
    batch_size: int = 100
    steps: int = 15
    max_rate: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, end in (
            ("epochs", 0, 2**31),
            ("batch_size", 1, 2**31),
            ("steps", 1, 2**31),
            ("seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"TrainSettings: expected {name} as an int, got {type(value).__name__}")
            if not low <= value < end:
                raise ValueError(f"TrainSettings: expected {low} <= {name} < {end}, got {value}")
        if not 0 < self.max_rate <= 1:
            raise ValueError(f"TrainSettings: expected 0 < max_rate <= 1, got {self.max_rate}")


class Trainer:
    """One training run: a model, images, settings, how many batches are done, and what each of them gave.

    Args:
        model: a spiking or an artificial autoencoder; changed in place.
        images: fp32 ``[N, in_features]`` in [0, 1], N >= 1.
        settings: the rest.

    Attributes:
        batch: batches done so far, over all epochs.
        history: per batch, in order. Spiking: "spike_mse" (of the outputs emitted while learning), "loss" (eq 8, mean
            over the batch), "error_zeros" (share of zeros in E), "hidden_rate" and "output_rate" (spikes per neuron and
            step). Artificial: "mse" and "loss".
        seconds: time spent in batches.

    Raises:
        ValueError: images of another shape, or more batches than there are Poisson streams.

    Example:
        >>> from spikefuse.models import preset
        >>> model = SpikingAutoencoder(64, 16, preset("shared", 64).rule, generator=weight_generator(0))
        >>> trainer = Trainer(model, torch.rand(50, 64), TrainSettings(batch_size=20))
        >>> trainer.run()
        >>> trainer.batch, len(trainer.history["spike_mse"])
        (3, 3)
    """

    def __init__(self, model: Autoencoder, images: Tensor, settings: TrainSettings) -> None:
        if images.dim() != 2 or images.shape[1] != model.in_features or len(images) == 0:
            raise ValueError(f"Trainer: expected images of shape [N, {model.in_features}], got {list(images.shape)}")
        self.model = model
        self.images = images
        self.settings = settings
        self.batch = 0
        self.columns = SPIKING_COLUMNS if isinstance(model, SpikingAutoencoder) else ANN_COLUMNS
        self.history: dict[str, list[float]] = {name: [] for name in self.columns}
        self.seconds = 0.0
        self._order: tuple[int, Tensor] | None = None
        if self.total_batches > STREAMS["train"]:
            raise ValueError(f"Trainer: expected at most 2^31 batches in all, got {self.total_batches}")

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the images."""
        return -(-len(self.images) // self.settings.batch_size)

    @property
    def total_batches(self) -> int:
        """Batches in the whole run."""
        return self.settings.epochs * self.batches_per_epoch

    @property
    def done(self) -> bool:
        """Whether no batch is left."""
        return self.batch >= self.total_batches

    @functools.cached_property
    def images_fingerprint(self) -> int:
        """CRC-32 of the images: tells a resumed run that it was given other ones."""
        pixels = self.images.detach().to("cpu", torch.float32).contiguous().numpy()
        return zlib.crc32(pixels.view("uint8").data)

    def step(self) -> dict[str, float]:
        """Learns from the next batch.

        Returns:
            This batch's entries of ``history``.

        Raises:
            RuntimeError: no batch is left.
            ValueError: images outside [0, 1], or weights that are not finite.
            FloatingPointError: the learning diverged; see the model's ``learn_``.
        """
        if self.done:
            raise RuntimeError(f"Trainer: all {self.total_batches} batches are done")
        started = time.perf_counter()
        epoch, index = divmod(self.batch, self.batches_per_epoch)
        size = self.settings.batch_size
        images = self.images[self._epoch_order(epoch)[index * size : (index + 1) * size]]
        record = self._learn(images.to(next(self.model.parameters()).device))
        for name in self.columns:
            self.history[name].append(record[name])
        self.batch += 1
        self.seconds += time.perf_counter() - started
        return record

    def run(
        self,
        *,
        until: int | None = None,
        on_batch: Callable[[Trainer], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        save: Callable[[Trainer], Any] | None = None,
        save_every: int = 100,
    ) -> None:
        """Learns from batch after batch, to the last one or until told to stop.

        Args:
            until: the number of batches done at which to stop; None for all.
            on_batch: called after every batch.
            should_stop: asked after every batch; True ends the run there.
            save: called after every ``save_every`` batches and at the end, however it comes but by an error.
            save_every: in batches, >= 1.

        Raises:
            ValueError: ``save_every`` is below 1.
            FloatingPointError, ValueError: as :meth:`step`.
        """
        if save_every < 1:
            raise ValueError(f"Trainer.run: expected save_every >= 1, got {save_every}")
        end = self.total_batches if until is None else min(until, self.total_batches)
        saved = -1
        while self.batch < end:
            self.step()
            if on_batch is not None:
                on_batch(self)
            if save is not None and self.batch % save_every == 0:
                save(self)
                saved = self.batch
            if should_stop is not None and should_stop():
                break
        if save is not None and saved != self.batch:
            save(self)

    def _epoch_order(self, epoch: int) -> Tensor:
        """The permutation of the images in an epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.settings.seed, "order", epoch))
            self._order = (epoch, torch.randperm(len(self.images), generator=generator).to(self.images.device))
        return self._order[1]

    def _learn(self, images: Tensor) -> dict[str, float]:
        if isinstance(self.model, ANNAutoencoder):
            learned = self.model.learn_(images)
            return {"mse": metrics.mse(learned.outputs, images), "loss": learned.loss}
        settings = self.settings
        inputs = poisson_encode(images * settings.max_rate, settings.steps, seed=settings.seed, offset=self.batch)
        stats = self.model.learn_(inputs)
        hidden_rate, output_rate = stats.firing_rates
        return {
            "spike_mse": metrics.spike_mse(stats.spike_counts[-1], inputs.counts()),
            "loss": stats.loss,
            "error_zeros": stats.error_zeros,
            "hidden_rate": hidden_rate,
            "output_rate": output_rate,
        }


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well an autoencoder reconstructs images. What only spikes have is None for the artificial network."""

    samples: int
    """Images."""
    mse: float
    """Output (summed spikes, or activations) against the image, both normalised: 0 equal, 1 silent, 2 unrelated."""
    spike_mse: float | None = None
    """Summed output spikes against summed input spikes, both normalised."""
    input_mse: float | None = None
    """Summed input spikes against the image, both normalised: the noise that the encoding itself brings."""
    error_zeros: float | None = None
    """Share of zeros in E: of neuron-steps where the output spike is the input's."""
    input_rate: float | None = None
    """Spikes per neuron and step, 0 to 1."""
    hidden_rate: float | None = None
    """Likewise."""
    output_rate: float | None = None
    """Likewise."""


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What a spiking autoencoder makes of images."""

    input_counts: Tensor
    """Input spikes summed over time, int32 ``[B, in_features]``."""
    hidden_counts: Tensor
    """Hidden spikes summed over time, int32 ``[B, hidden_features]``."""
    output_counts: Tensor
    """Output spikes summed over time, int32 ``[B, in_features]``."""
    error_zeros: float
    """Share of zeros in E."""


def reconstruct(model: SpikingAutoencoder, images: Tensor, settings: TrainSettings, offset: int) -> Reconstruction:
    """Encodes images as Poisson spikes and takes them through the network, with the weights held.

    Args:
        model: a spiking autoencoder.
        images: ``[B, in_features]`` in [0, 1].
        settings: steps, max_rate and seed are used.
        offset: Poisson stream; see the module's table.

    Raises:
        TypeError, ValueError: images of another shape, dtype or range.
    """
    inputs = poisson_encode(images * settings.max_rate, settings.steps, seed=settings.seed, offset=offset)
    hidden = model.encode(inputs)
    output = model.decode(hidden)
    wrong = PackedSpikes(inputs.words ^ output.words, inputs.num_neurons)
    return Reconstruction(inputs.counts(), hidden.counts(), output.counts(), 1 - wrong.density())


def evaluate(model: Autoencoder, images: Tensor, settings: TrainSettings, stream: str = "test") -> Evaluation:
    """Reconstructs images with fresh Poisson draws and measures how far off the results are.

    Args:
        model: any autoencoder.
        images: ``[N, in_features]`` in [0, 1], N >= 1.
        settings: steps, max_rate and seed are used.
        stream: "train", "test" or "pictures": which Poisson streams to draw from, in ``STREAMS``.

    Raises:
        TypeError, ValueError: images of another shape, dtype or range; an unknown stream.

    Example:
        >>> from spikefuse.models import ANNRule
        >>> evaluate(ANNAutoencoder(64, 8, ANNRule()), torch.rand(20, 64), TrainSettings()).samples
        20
    """
    if images.dim() != 2 or images.shape[1] != model.in_features or len(images) == 0:
        raise ValueError(f"evaluate: expected images of shape [N, {model.in_features}], got {list(images.shape)}")
    if stream not in STREAMS:
        raise ValueError(f"evaluate: expected stream as one of {', '.join(STREAMS)}, got {stream!r}")
    device = next(model.parameters()).device
    batches = torch.split(images, EVALUATION_BATCH)
    if isinstance(model, ANNAutoencoder):
        with torch.no_grad():
            outputs = torch.cat([model(batch.to(device)).cpu() for batch in batches])
        return Evaluation(len(images), metrics.mse(outputs, images.cpu()))
    results = [reconstruct(model, batch.to(device), settings, STREAMS[stream] + i) for i, batch in enumerate(batches)]
    inputs, hidden, outputs = (
        torch.cat([getattr(result, name).cpu() for result in results])
        for name in ("input_counts", "hidden_counts", "output_counts")
    )
    return Evaluation(
        samples=len(images),
        mse=metrics.mse(outputs, images.cpu()),
        spike_mse=metrics.spike_mse(outputs, inputs),
        input_mse=metrics.mse(inputs, images.cpu()),
        error_zeros=math.fsum(r.error_zeros * len(r.input_counts) for r in results) / len(images),
        input_rate=_rate(inputs, settings.steps),
        hidden_rate=_rate(hidden, settings.steps),
        output_rate=_rate(outputs, settings.steps),
    )


def _rate(counts: Tensor, steps: int) -> float:
    return float(counts.sum(dtype=torch.int64)) / (counts.numel() * steps)
