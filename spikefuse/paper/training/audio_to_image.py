"""Training and evaluation of nets that make images of sound, on pairs of the two.

As :mod:`spikefuse.paper.training.autoencoder` for the autoencoders: everything from one seed, bit for bit, and a run's
whole progress is its weights, how many batches it has done, and what it measured on the way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from spikefuse.data.pairing import Pairs
from spikefuse.functional.poisson import poisson_encode
from spikefuse.paper import metrics
from spikefuse.paper.models.audio_to_image import ANNAudioToImage, AudioToImage
from spikefuse.paper.models.hidden_maps import HiddenMaps
from spikefuse.paper.seeds import derived_seed
from spikefuse.paper.training.loop import STREAMS, BatchRun, TrainSettings

SynthesisModel = AudioToImage | ANNAudioToImage

EVALUATION_BATCH: Final = 100
"""Sounds encoded at a time in an evaluation. Fixed, because a draw depends on the sound's place in its batch."""

SPIKING_COLUMNS: Final = ("loss", "error_zeros", "hidden_rate", "output_rate")
ANN_COLUMNS: Final = ("loss",)


@dataclasses.dataclass(frozen=True)
class SynthesisEvaluation:
    """How well images are made of sounds."""

    samples: int
    """Sounds."""
    mse: float
    """Lowest MSE over the paired training images of the sound's class, both normalised, mean over sounds: the paper's
    test metric. Of data set A, where a class has one image, it is the MSE against that image."""
    recognised: float | None = None
    """Share of images that are taken for the digit that was said, 0 to 1; None where nobody was asked."""
    hidden_rate: float | None = None
    """Spikes of the audiocoder's hidden layer per neuron and step, 0 to 1; None for the artificial network."""
    output_rate: float | None = None
    """Likewise of its output layer."""
    input_rate: float | None = None
    """Likewise of the sounds that it is given."""
    nearest: float | None = None
    """Share of images that are nearer, by MSE, to a paired image of their own class than to any of another, 0 to 1:
    what a sound was taken for, whether or not the image itself can be read."""


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Scores of images that ignore the sound, by the same metric."""

    mean_image: float
    """The mean training image, whatever was said."""
    random_class: float
    """The first paired image of a class that is drawn at random: its expectation over all classes. In data set B it is
    itself among the training images of its own class, where it scores 0."""


def baselines(labels: Tensor, pairs: Pairs) -> Baselines:
    """Scores of two answers that ignore the sound.

    Args:
        labels: of the test sounds, int64 ``[N]``.
        pairs: of the training.

    Raises:
        ValueError: a label without an image.

    Example:
        >>> from spikefuse.data import pair
        >>> images = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> pairs = pair("A", torch.rand(2, 5), torch.tensor([0, 1]), images, torch.tensor([0, 1]))
        >>> scores = baselines(torch.tensor([0, 1, 1]), pairs)
        >>> round(scores.mean_image, 6), round(scores.random_class, 6)
        (1.0, 1.5)
    """
    mean = pairs.images[pairs.chosen].double().mean(0)

    def score(image: Tensor) -> float:
        given = image.unsqueeze(0).expand(len(labels), -1)
        return float(metrics.nearest_mse(given, labels, pairs.images, pairs.image_labels).mean())

    classes = pairs.image_labels.unique().tolist()
    firsts = [pairs.images[int((pairs.image_labels == label).nonzero()[0])] for label in classes]
    return Baselines(score(mean), sum(map(score, firsts)) / len(firsts))


class SynthesisTrainer(BatchRun):
    """One training run of an audiocoder inside the net that makes images; the autoencoder stays as it is.

    Args:
        model: changed in place.
        pairs: N >= 1 sounds with their images.
        settings: of these steps and max_rate are the audiocoder's; without meaning for the artificial network.

    Attributes:
        history: per batch. Spiking: "loss" (eq 8, mean over the batch), "error_zeros" (share of zeros in E),
            "hidden_rate" and "output_rate" (spikes per neuron and step). Artificial: "loss".
        measured: what the caller measured on the way, in order, plain values for JSON; kept with the checkpoint.

    Raises:
        ValueError: pairs of other sizes than the model's.

    Example:
        >>> from spikefuse.data import pair
        >>> from spikefuse.paper.models import Audiocoder, SpikingAutoencoder, preset
        >>> autoencoder = SpikingAutoencoder(9, 6, preset("shared", 9).rule)
        >>> model = AudioToImage(Audiocoder(20, 8, 6), autoencoder, duration=5)
        >>> labels = torch.arange(10) % 2
        >>> pairs = pair("A", torch.rand(10, 20), labels, torch.rand(4, 9), torch.arange(4) % 2)
        >>> trainer = SynthesisTrainer(model, pairs, TrainSettings(batch_size=4, steps=60, max_rate=0.02))
        >>> trainer.run()
        >>> trainer.batch, len(trainer.history["loss"])
        (3, 3)
    """

    def __init__(self, model: SynthesisModel, pairs: Pairs, settings: TrainSettings) -> None:
        if len(pairs) == 0 or pairs.rates.shape[1] != model.in_features:
            raise ValueError(
                f"SynthesisTrainer: expected rates of shape [N, {model.in_features}], got {list(pairs.rates.shape)}"
            )
        if pairs.images.shape[1] != model.image_features:
            raise ValueError(
                f"SynthesisTrainer: expected images of {model.image_features} pixels, got {pairs.images.shape[1]}"
            )
        spiking = isinstance(model, AudioToImage)
        super().__init__(len(pairs), settings, SPIKING_COLUMNS if spiking else ANN_COLUMNS)
        self.model = model
        self.pairs = pairs
        self.measured: list[dict[str, Any]] = []

    @functools.cached_property
    def targets(self) -> HiddenMaps | Tensor:
        """Of each distinct image: hidden maps of the autoencoder, drawn from the run's seed, or hidden vectors."""
        if isinstance(self.model, ANNAudioToImage):
            return self.model.hidden_vectors(self.pairs.images)
        return self.model.hidden_maps(self.pairs.images, derived_seed(self.settings.seed, "hidden maps"))

    def _learn_from(self, chosen: Tensor) -> dict[str, float]:
        rates, images, targets = self.pairs.rates[chosen], self.pairs.chosen[chosen], self.targets
        if isinstance(self.model, ANNAudioToImage):
            assert isinstance(targets, Tensor)
            return {"loss": self.model.learn_(rates, targets, images).loss}
        assert isinstance(targets, HiddenMaps)
        settings = self.settings
        inputs = poisson_encode(rates * settings.max_rate, settings.steps, seed=settings.seed, offset=self.batch)
        stats = self.model.learn_(inputs, targets, images)
        hidden_rate, output_rate = stats.firing_rates
        return {
            "loss": stats.loss,
            "error_zeros": stats.error_zeros,
            "hidden_rate": hidden_rate,
            "output_rate": output_rate,
        }


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """Images made of sounds. What only spikes have is None for the artificial network."""

    images: Tensor
    """``[B, pixels]``: output spikes summed over time, int32, or activations."""
    code: Tensor
    """Output of the audiocoder, ``[B, hidden]``, in the same form."""
    hidden_rate: float | None = None
    """Spikes of the audiocoder's hidden layer per neuron and step, 0 to 1."""
    output_rate: float | None = None
    """Likewise of its output layer."""
    input_rate: float | None = None
    """Likewise of the sounds."""


def synthesize(model: SynthesisModel, rates: Tensor, settings: TrainSettings, offset: int) -> Synthesis:
    """Makes images of cochleagrams.

    Args:
        model: trained.
        rates: ``[B, in_features]`` in [0, 1].
        settings: steps, max_rate and seed are used.
        offset: Poisson stream; see :mod:`spikefuse.paper.training.loop`.

    Raises:
        TypeError, ValueError: rates of another shape, dtype or range.
    """
    if rates.dim() != 2 or rates.shape[1] != model.in_features:
        raise ValueError(f"synthesize: expected rates of shape [B, {model.in_features}], got {list(rates.shape)}")
    if isinstance(model, ANNAudioToImage):
        with torch.no_grad():
            code = model.audiocoder(rates)
            return Synthesis(model.autoencoder.decode(code), code)
    heard = poisson_encode(rates * settings.max_rate, settings.steps, seed=settings.seed, offset=offset)
    spikes = model(heard)
    densities = (spikes.hidden.density(), spikes.code.density(), heard.density())
    return Synthesis(spikes.output.counts(), spikes.code.counts(), *densities)


def evaluate(
    model: SynthesisModel,
    rates: Tensor,
    labels: Tensor,
    pairs: Pairs,
    settings: TrainSettings,
    *,
    stream: str = "test",
    recognise: Callable[[Tensor], Tensor] | None = None,
) -> SynthesisEvaluation:
    """Makes images of sounds with fresh Poisson draws and measures how far off they are.

    Args:
        model: trained.
        rates: cochleagrams ``[N, in_features]`` in [0, 1], N >= 1.
        labels: their classes, int64 ``[N]``.
        pairs: of the training, whose images are what the model's are compared with.
        settings: steps, max_rate and seed are used.
        stream: "train", "test" or "pictures": which Poisson streams to draw from.
        recognise: says which class each of ``[B, pixels]`` images shows, int64 ``[B]``; see
            :func:`spikefuse.paper.models.digit_classifier.recogniser`.

    Raises:
        TypeError, ValueError: sounds of another shape, dtype or range; an unknown stream; a label without an image.

    Example:
        >>> from spikefuse.data import pair
        >>> from spikefuse.paper.models import Audiocoder, SpikingAutoencoder, preset
        >>> model = AudioToImage(Audiocoder(20, 8, 6), SpikingAutoencoder(9, 6, preset("shared", 9).rule))
        >>> labels = torch.arange(10) % 2
        >>> pairs = pair("A", torch.rand(10, 20), labels, torch.rand(4, 9), torch.arange(4) % 2)
        >>> evaluate(model, pairs.rates, labels, pairs, TrainSettings(steps=60, max_rate=0.02)).samples
        10
    """
    if len(rates) == 0 or len(labels) != len(rates):
        raise ValueError(f"evaluate: expected one label for each of at least one sound, got {len(labels)} labels")
    if stream not in STREAMS:
        raise ValueError(f"evaluate: expected stream as one of {', '.join(STREAMS)}, got {stream!r}")
    batches = rates.split(EVALUATION_BATCH)
    results = [synthesize(model, batch, settings, STREAMS[stream] + i) for i, batch in enumerate(batches)]
    images = torch.cat([result.images for result in results])
    recognised = None if recognise is None else float((recognise(images) == labels).double().mean())
    by_class = _nearest_of_each_class(images, pairs)
    own = metrics.nearest_mse(images, labels, pairs.images, pairs.image_labels)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value * len(batch) for value, batch in zip(values, batches, strict=True) if value is not None]
        return sum(known) / len(rates) if known else None

    return SynthesisEvaluation(
        samples=len(rates),
        mse=float(own.mean()),
        recognised=recognised,
        hidden_rate=mean([result.hidden_rate for result in results]),
        output_rate=mean([result.output_rate for result in results]),
        input_rate=mean([result.input_rate for result in results]),
        nearest=float((own <= by_class.amin(1)).double().mean()),
    )


def _nearest_of_each_class(images: Tensor, pairs: Pairs) -> Tensor:
    """Lowest MSE of each image over the paired images of each class, ``[N, classes]``."""
    classes = pairs.image_labels.unique()
    return torch.stack(
        [metrics.nearest_mse(images, label.expand(len(images)), pairs.images, pairs.image_labels) for label in classes],
        dim=1,
    )
