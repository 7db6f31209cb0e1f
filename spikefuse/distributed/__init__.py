"""Neurons spread over ranks, by torch.distributed: layers, online learning, and what both exchange: spikes, as bits.

Rank r of R holds the neurons ``[r * S, (r + 1) * S)`` of a layer, S = ceil(N / R), and their weights; the last rank may
hold fewer. That is torch.chunk's and DTensor's ``Shard(0)``, so weights go into torch.distributed.checkpoint as they
are (:mod:`spikefuse.distributed.checkpoint`). All ranks see the same batch; to spread the batch instead, wrap a model
of plain :class:`spikefuse.LIFLinear` into DistributedDataParallel, or into ``fully_shard`` after
:func:`for_fully_shard`. ``docs/scaling.md`` says what each way sends.

Without ``torch.distributed.init_process_group`` there is one rank, and everything here works without a group. End a
program that has called it with :func:`shutdown`.
"""

from __future__ import annotations

from spikefuse._renamed import renamed
from spikefuse.distributed.ending import shutdown
from spikefuse.distributed.layers import NeuronParallelLIFLinear, for_fully_shard
from spikefuse.distributed.online import forward, gather, online_batch_, shard
from spikefuse.distributed.ranks import PeerError, gather_spikes, neuron_slice, rank_and_size

__getattr__ = renamed(__name__, online_step_="online_batch_", place="rank_and_size")

__all__ = [
    "NeuronParallelLIFLinear",
    "PeerError",
    "for_fully_shard",
    "forward",
    "gather",
    "gather_spikes",
    "neuron_slice",
    "online_batch_",
    "rank_and_size",
    "shard",
    "shutdown",
]
