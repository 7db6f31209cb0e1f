"""Models built on the online rule, and the artificial networks they are compared with."""

from __future__ import annotations

from spikefuse.paper.models.ann import ANNAudiocoder, ANNAutoencoder, ANNRule, ANNStats, ReLUNetwork
from spikefuse.paper.models.audio_to_image import ANNAudioToImage, AudioToImage, SynthesisSpikes
from spikefuse.paper.models.audiocoder import Audiocoder, audiocoder_preset
from spikefuse.paper.models.autoencoder import Preset, SpikingAutoencoder, preset
from spikefuse.paper.models.hidden_maps import HiddenMaps, hidden_maps, quantized
from spikefuse.paper.models.image_stream import ImageStream

__all__ = [
    "ANNAudioToImage",
    "ANNAudiocoder",
    "ANNAutoencoder",
    "ANNRule",
    "ANNStats",
    "AudioToImage",
    "Audiocoder",
    "HiddenMaps",
    "ImageStream",
    "Preset",
    "ReLUNetwork",
    "SpikingAutoencoder",
    "SynthesisSpikes",
    "audiocoder_preset",
    "hidden_maps",
    "preset",
    "quantized",
]
