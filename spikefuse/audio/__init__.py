"""Sound to firing rates: Lyon's passive ear, and cochleagrams of a fixed size as inputs of a spiking network."""

from __future__ import annotations

from spikefuse.audio.cochleagram import Cochleagram
from spikefuse.audio.lyon import LyonEar

__all__ = ["Cochleagram", "LyonEar"]
