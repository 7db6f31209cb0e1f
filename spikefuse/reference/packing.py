"""Spikes as bits of words, and back."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(spikes: Tensor) -> Tensor:
    """int32 words ``[..., ceil(N / 32)]`` of spikes ``[..., N]``.

    >>> pack(torch.ones(1, 33)).tolist()
    [[-1, 1]]
    """
    padded = torch.nn.functional.pad(spikes.to(torch.int64), (0, -spikes.shape[-1] % 32))
    bits = padded.unflatten(-1, (padded.shape[-1] // 32, 32)) << torch.arange(32, device=spikes.device)
    word = bits.sum(-1)
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)


def unpack(words: Tensor, num_neurons: int) -> Tensor:
    """fp32 spikes ``[..., N]`` of int32 words.

    >>> unpack(torch.tensor([[5]], dtype=torch.int32), 3)
    tensor([[1., 0., 1.]])
    """
    bits = words.to(torch.int64).unsqueeze(-1) >> torch.arange(32, device=words.device) & 1
    return bits.flatten(-2)[..., :num_neurons].to(torch.float32)
