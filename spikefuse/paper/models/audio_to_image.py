"""Sound to image: an audiocoder's output spikes run through the second layer of an autoencoder of images."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from spikefuse import functional
from spikefuse.online import OnlineRule, OnlineStats
from spikefuse.packed import PackedSpikes
from spikefuse.paper.models.ann import ANNAudiocoder, ANNAutoencoder, ANNStats
from spikefuse.paper.models.audiocoder import Audiocoder
from spikefuse.paper.models.autoencoder import SpikingAutoencoder
from spikefuse.paper.models.config import Configured, number
from spikefuse.paper.models.hidden_maps import HALF_PRECISION_BITS, HiddenMaps, hidden_maps, quantized

State = list[Tensor | None]
"""v' of the audiocoder's hidden and output layer and of the pixels, ``[B, n]`` each; None is zeros."""

MAP_STREAM: Final = 0
"""Poisson stream of the images whose hidden spikes are the targets; its seed is the run's, for this purpose alone."""


@dataclasses.dataclass(frozen=True)
class SynthesisSpikes:
    """Spikes of a batch of sounds on their way to images."""

    hidden: PackedSpikes
    """Of the audiocoder's hidden layer, ``[T, B, hidden_features]``."""
    code: PackedSpikes
    """Of the audiocoder's output, which stand for the autoencoder's hidden spikes: ``[T, B, out_features]``."""
    output: PackedSpikes
    """Of the pixels, ``[T, B, autoencoder.in_features]``. Summed over time they are the image."""
    state: State
    """To go on from."""


class _SoundToImage(nn.Module):
    """An audiocoder and the autoencoder whose hidden layer it stands in for."""

    audiocoder: Audiocoder | ANNAudiocoder
    autoencoder: SpikingAutoencoder | ANNAutoencoder

    def __init__(
        self, audiocoder: Audiocoder | ANNAudiocoder, autoencoder: SpikingAutoencoder | ANNAutoencoder
    ) -> None:
        super().__init__()
        if audiocoder.out_features != autoencoder.hidden_features:
            raise ValueError(
                f"{type(self).__name__}: expected an audiocoder of {autoencoder.hidden_features} outputs, the "
                f"autoencoder's hidden, got {audiocoder.out_features}"
            )
        self.audiocoder = audiocoder
        self.autoencoder = autoencoder

    @property
    def in_features(self) -> int:
        """Length of a cochleagram."""
        return self.audiocoder.in_features

    @property
    def image_features(self) -> int:
        """Pixels of an image."""
        return self.autoencoder.in_features


class AudioToImage(Configured, _SoundToImage):
    """A spiking audiocoder and the decoder of a spiking autoencoder, as one network of three LIF layers.

    The audiocoder learns online to emit the hidden spikes that the autoencoder emitted for the image which a sound is
    paired with; the autoencoder stays as it is. At each step the audiocoder's output spikes feed the autoencoder's
    second layer, whose summed spikes are the image.

    Args:
        audiocoder: its outputs are the autoencoder's hidden neurons.
        autoencoder: trained on images.
        duration: Th, steps of each stored hidden map, >= 1; the map is shown again and again.
        image_rate: spike probability per step of a white pixel when the maps are made, in (0, 1].

    Raises:
        ValueError: an audiocoder whose outputs are not the autoencoder's hidden neurons, or a number outside its range.

    Example:
        >>> from spikefuse.functional import poisson_encode
        >>> from spikefuse.paper.models import preset
        >>> autoencoder = SpikingAutoencoder(64, 16, preset("shared", 64).rule)
        >>> model = AudioToImage(Audiocoder(300, 32, 16), autoencoder, duration=5)
        >>> sound = poisson_encode(torch.rand(4, 300) * 0.2, steps=60, seed=0)
        >>> maps = model.hidden_maps(torch.rand(10, 64), seed=0)
        >>> model.learn_(sound, maps, torch.tensor([3, 1, 3, 9])).steps
        60
        >>> model(sound).output.counts().shape
        torch.Size([4, 64])
    """

    KIND = "audio-to-image"
    SETTINGS: ClassVar = {
        "audiocoder": Audiocoder.from_config,
        "autoencoder": SpikingAutoencoder.from_config,
        "duration": number,
        "image_rate": number,
    }

    audiocoder: Audiocoder
    autoencoder: SpikingAutoencoder

    def __init__(
        self, audiocoder: Audiocoder, autoencoder: SpikingAutoencoder, *, duration: int = 15, image_rate: float = 0.3
    ) -> None:
        super().__init__(audiocoder, autoencoder)
        if duration < 1:
            raise ValueError(f"AudioToImage: expected duration >= 1, got {duration}")
        if not 0 < image_rate <= 1:
            raise ValueError(f"AudioToImage: expected 0 < image_rate <= 1, got {image_rate}")
        self.duration = duration
        self.image_rate = image_rate

    def hidden_maps(self, images: Tensor, seed: int) -> HiddenMaps:
        """The maps that the audiocoder is to emit for images ``[M, image_features]``; see :func:`hidden_maps`."""
        return hidden_maps(
            self.autoencoder, images, duration=self.duration, max_rate=self.image_rate, seed=seed, offset=MAP_STREAM
        )

    def forward(self, inputs: PackedSpikes | Tensor, state: State | None = None) -> SynthesisSpikes:
        """Spikes of all three layers, with the weights held.

        Args:
            inputs: of sounds, spikes ``[T, B, in_features]``, packed or dense.
            state: of the call before, to go on in time; None begins.

        Raises:
            TypeError, ValueError: inputs or a state of another shape, dtype or device; the message says which.
        """
        x = inputs if isinstance(inputs, PackedSpikes) else PackedSpikes.pack(inputs)
        if len(x.shape) != 3 or x.shape[2] != self.in_features:
            raise ValueError(f"AudioToImage: expected inputs of shape [T, B, {self.in_features}], got {list(x.shape)}")
        layers = [
            *((weight, self.audiocoder.rule) for weight in self.audiocoder.weights),
            (self.autoencoder.decoder_weight, self.autoencoder.rule),
        ]
        before: State = [None] * len(layers) if state is None else state
        spikes: list[PackedSpikes] = []
        after: State = []
        for (weight, rule), v in zip(layers, before, strict=True):
            x, v_after = _lif_layer(x, weight, rule, v)
            spikes.append(x)
            after.append(v_after)
        hidden, code, output = spikes
        return SynthesisSpikes(hidden, code, output, after)

    def learn_(self, inputs: PackedSpikes | Tensor, maps: HiddenMaps, images: Tensor) -> OnlineStats:
        """Lets the audiocoder learn from one batch; the autoencoder is left as it is.

        Args:
            inputs: as in :meth:`forward`.
            maps: of :meth:`hidden_maps`.
            images: index into ``maps`` of each sample's image, int64 ``[B]``.

        Raises:
            TypeError, ValueError, FloatingPointError: as :func:`spikefuse.online.online_batch_`.
        """
        steps = inputs.shape[0]
        return self.audiocoder.learn_(inputs, maps.targets(images, steps))

    def extra_repr(self) -> str:
        """The settings that the parts do not show."""
        return f"duration={self.duration}, image_rate={self.image_rate}"


class ANNAudioToImage(Configured, _SoundToImage):
    """The artificial audiocoder and the decoder of an artificial autoencoder, which the spiking ones are compared with.

    Args:
        audiocoder: its outputs are the autoencoder's hidden units.
        autoencoder: trained on images.
        bits: of each element of a hidden vector that is a target, 1 to 16; see :func:`quantized`.

    Raises:
        ValueError: an audiocoder whose outputs are not the autoencoder's hidden units, or other bits.

    Example:
        >>> from spikefuse.paper.models import ANNRule
        >>> model = ANNAudioToImage(ANNAudiocoder(300, 32, 16), ANNAutoencoder(64, 16, ANNRule()), bits=2)
        >>> rates, images = torch.rand(4, 300), torch.rand(10, 64)
        >>> targets = model.hidden_vectors(images)
        >>> model.learn_(rates, targets, torch.tensor([3, 1, 3, 9])).outputs.shape
        torch.Size([4, 16])
        >>> model(rates).shape
        torch.Size([4, 64])
    """

    KIND = "ann-audio-to-image"
    SETTINGS: ClassVar = {
        "audiocoder": ANNAudiocoder.from_config,
        "autoencoder": ANNAutoencoder.from_config,
        "bits": number,
    }

    audiocoder: ANNAudiocoder
    autoencoder: ANNAutoencoder

    def __init__(
        self, audiocoder: ANNAudiocoder, autoencoder: ANNAutoencoder, *, bits: int = HALF_PRECISION_BITS
    ) -> None:
        super().__init__(audiocoder, autoencoder)
        if not 1 <= bits <= HALF_PRECISION_BITS:
            raise ValueError(f"ANNAudioToImage: expected bits of 1 to {HALF_PRECISION_BITS}, got {bits}")
        self.bits = bits

    def hidden_vectors(self, images: Tensor) -> Tensor:
        """The vectors that the audiocoder is to put out for images ``[M, image_features]``: ``[M, hidden]``."""
        with torch.no_grad():
            return quantized(self.autoencoder.encode(images), self.bits)

    def forward(self, rates: Tensor) -> Tensor:
        """Images ``[B, image_features]`` of cochleagrams ``[B, in_features]``."""
        return self.autoencoder.decode(self.audiocoder(rates))

    def learn_(self, rates: Tensor, targets: Tensor, images: Tensor) -> ANNStats:
        """Lets the audiocoder learn from one batch; the autoencoder is left as it is.

        Args:
            rates: cochleagrams ``[B, in_features]``.
            targets: of :meth:`hidden_vectors`.
            images: index into ``targets`` of each sample's image, int64 ``[B]``.

        Raises:
            ValueError, FloatingPointError: as :meth:`ANNAudiocoder.learn_`.
        """
        return self.audiocoder.learn_(rates, targets[images])


def _lif_layer(x: PackedSpikes, weight: Tensor, rule: OnlineRule, v: Tensor | None) -> tuple[PackedSpikes, Tensor]:
    """One layer over time, from a state to the state after."""
    with torch.no_grad():
        out = functional.lif(functional.spike_linear(x, weight), v, leak=rule.leak, threshold=rule.threshold)
        return PackedSpikes.pack(out.spikes), out.state
