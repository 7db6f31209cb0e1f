"""Models built on the online rule, and the artificial networks they are compared with."""

from __future__ import annotations

from spikefuse.models.ann import ANNAutoencoder, ANNRule, ANNStats
from spikefuse.models.autoencoder import Preset, SpikingAutoencoder, preset

__all__ = ["ANNAutoencoder", "ANNRule", "ANNStats", "Preset", "SpikingAutoencoder", "preset"]
