"""Images that come into view while their sound is still being heard."""

from __future__ import annotations

import torch
from torch import Tensor

from spikefuse.functional.poisson import poisson_encode
from spikefuse.packed import PackedSpikes
from spikefuse.paper.models.audio_to_image import AudioToImage, State


class ImageStream:
    """Hears frames of cochleagrams as they come and refines an image with every time step.

    The network sees a whole cochleagram at once, each of its elements as the rate of one input; what has not been heard
    yet is silent. So the stream keeps the rates of what has been heard, and every step draws its input spikes from
    them. Membrane potentials and the summed spikes are carried from step to step.

    Args:
        model: trained.
        batch: sounds heard at the same time, >= 1.
        channels: of a frame; the model's inputs are whole frames of them.
        max_rate: spike probability per step of the loudest element heard so far, in (0, 1]: rates are divided by each
            sound's own maximum, as :class:`spikefuse.audio.Cochleagram` does in the end.
        seed: of the Poisson spikes, 0 <= seed < 2^63.

    Attributes:
        counts: the image so far, output spikes summed over time, int32 ``[batch, image_features]``.
        steps: time steps done.
        frames: frames heard.

    Raises:
        ValueError: a number outside its range, or channels that do not divide the model's inputs.

    Example:
        >>> from spikefuse.paper.models import Audiocoder, SpikingAutoencoder, preset
        >>> autoencoder = SpikingAutoencoder(64, 16, preset("shared", 64).rule)
        >>> stream = ImageStream(AudioToImage(Audiocoder(300, 32, 16), autoencoder), channels=3)
        >>> for frames in torch.rand(100, 3).split(25):
        ...     image = stream.hear(frames, steps=15)
        >>> image.shape, stream.frames, stream.steps
        (torch.Size([1, 64]), 100, 60)
    """

    def __init__(
        self, model: AudioToImage, *, batch: int = 1, channels: int = 39, max_rate: float = 0.02, seed: int = 0
    ) -> None:
        if batch < 1:
            raise ValueError(f"ImageStream: expected batch >= 1, got {batch}")
        if channels < 1 or model.in_features % channels:
            raise ValueError(
                f"ImageStream: expected channels that divide the model's {model.in_features} inputs, got {channels}"
            )
        if not 0 < max_rate <= 1:
            raise ValueError(f"ImageStream: expected 0 < max_rate <= 1, got {max_rate}")
        self.model = model
        self.max_rate = max_rate
        self.seed = seed
        self._device = model.audiocoder.first_weight.device
        self._heard = torch.zeros(batch, model.in_features // channels, channels, device=self._device)
        self.restart()

    def restart(self) -> None:
        """Forgets everything heard and drawn."""
        self._heard.zero_()
        self._state: State | None = None
        self.counts = torch.zeros(len(self._heard), self.model.image_features, dtype=torch.int32, device=self._device)
        self.steps = 0
        self.frames = 0

    def hear(self, frames: Tensor, steps: int) -> Tensor:
        """Hears further frames, then goes on for some steps.

        Args:
            frames: of the ear, >= 0, not normalised: ``[n, channels]`` for one sound or ``[batch, n, channels]``.
            steps: time steps to do with all that has been heard, >= 0.

        Returns:
            ``counts``.

        Raises:
            ValueError: frames of another shape, negative or not finite, or more than the model has inputs for; nothing
                has been heard then.
        """
        batch, length, channels = self._heard.shape
        given = frames.unsqueeze(0) if frames.dim() == 2 else frames
        if given.dim() != 3 or given.shape[0] != batch or given.shape[2] != channels:
            raise ValueError(
                f"ImageStream.hear: expected frames of shape [{batch}, n, {channels}], got {list(frames.shape)}"
            )
        end = self.frames + given.shape[1]
        if end > length:
            raise ValueError(f"ImageStream.hear: expected at most {length} frames in all, got {end}")
        if given.numel() and not (bool(torch.isfinite(given).all()) and float(given.min()) >= 0):
            raise ValueError("ImageStream.hear: expected finite frames >= 0")
        self._heard[:, self.frames : end] = given
        self.frames = end
        return self.run(steps)

    def run(self, steps: int) -> Tensor:
        """Goes on for some steps with what has been heard.

        Args:
            steps: >= 0.

        Returns:
            ``counts``.
        """
        rates = self._heard.flatten(1)
        peak = rates.amax(1, keepdim=True)
        rates = rates / torch.where(peak > 0, peak, 1.0) * self.max_rate
        for _ in range(steps):
            # One Poisson stream a step, so that no draw depends on how the steps are cut into calls.
            self.feed(poisson_encode(rates, 1, seed=self.seed, offset=self.steps))
        return self.counts

    def feed(self, spikes: PackedSpikes | Tensor) -> Tensor:
        """Goes on with input spikes made elsewhere.

        Args:
            spikes: ``[t, batch, in_features]``, packed or dense.

        Returns:
            ``counts``.

        Raises:
            TypeError, ValueError: as :meth:`AudioToImage.forward`.
        """
        result = self.model(spikes, self._state)
        self._state = result.state
        self.counts = self.counts + result.output.counts()
        self.steps += spikes.shape[0]
        return self.counts
