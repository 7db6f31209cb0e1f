"""Training and evaluation of the autoencoders on images: order, encoding, history, everything from one seed.

The same seed gives the same spiking network, bit for bit, for any number of threads. Nothing random has a hidden
state: the order of an epoch depends on the seed and the epoch, the Poisson spikes of a batch on the seed and the number
of the batch. A run's whole progress is therefore its weights and how many batches it has done, and
:mod:`spikefuse.paper.training.checkpoint` can take it up again in the middle of an epoch.

The Poisson streams are those of :mod:`spikefuse.paper.training.loop`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Final

import torch
from torch import Tensor

from spikefuse.data.dataset import fingerprint
from spikefuse.functional.poisson import poisson_encode
from spikefuse.packed import PackedSpikes
from spikefuse.paper import metrics
from spikefuse.paper.models.ann import ANNAutoencoder
from spikefuse.paper.models.autoencoder import SpikingAutoencoder
from spikefuse.paper.training.loop import STREAMS, BatchRun, TrainSettings

Autoencoder = SpikingAutoencoder | ANNAutoencoder

EVALUATION_BATCH: Final = 500
"""Images encoded at a time in an evaluation. Fixed, because a draw depends on the image's place in its batch."""

SPIKING_COLUMNS: Final = ("spike_mse", "loss", "error_zeros", "hidden_rate", "output_rate")
ANN_COLUMNS: Final = ("mse", "loss")


class Trainer(BatchRun):
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
        >>> from spikefuse.paper.seeds import weight_generator
        >>> from spikefuse.paper.models import preset
        >>> model = SpikingAutoencoder(64, 16, preset("shared", 64).rule, generator=weight_generator(0))
        >>> trainer = Trainer(model, torch.rand(50, 64), TrainSettings(batch_size=20))
        >>> trainer.run()
        >>> trainer.batch, len(trainer.history["spike_mse"])
        (3, 3)
    """

    def __init__(self, model: Autoencoder, images: Tensor, settings: TrainSettings) -> None:
        if images.dim() != 2 or images.shape[1] != model.in_features or len(images) == 0:
            raise ValueError(f"Trainer: expected images of shape [N, {model.in_features}], got {list(images.shape)}")
        super().__init__(
            len(images), settings, SPIKING_COLUMNS if isinstance(model, SpikingAutoencoder) else ANN_COLUMNS
        )
        self.model = model
        self.images = images

    @functools.cached_property
    def images_fingerprint(self) -> int:
        """CRC-32 of the images: tells a resumed run that it was given other ones."""
        return fingerprint(self.images)

    def _learn_from(self, chosen: Tensor) -> dict[str, float]:
        images = self.images[chosen.to(self.images.device)]
        return self._learn(images.to(next(self.model.parameters()).device))

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
    """Outputs of a spiking autoencoder for images."""

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
        >>> from spikefuse.paper.models import ANNRule
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
