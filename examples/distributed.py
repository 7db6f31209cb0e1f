"""Neurons spread over processes, one a GPU or two on a CPU; run it again to go on, with any number of them.

    torchrun --nproc-per-node 2 examples/distributed.py
    torchrun --nproc-per-node 2 examples/distributed.py --way online

If a process is lost, the others stop, and the next run goes on from the last complete checkpoint.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable

import torch
import torch.distributed as dist

from spikefuse import OnlineRule, PackedSpikes, distributed
from spikefuse.distributed import checkpoint
from spikefuse.functional import poisson_encode

INPUTS, HIDDEN, OUTPUTS, STEPS, BATCH = 5000, 400, 50, 30, 20
Learner = tuple[Callable[[PackedSpikes, PackedSpikes], float], dict[str, torch.Tensor]]


def by_autograd() -> Learner:
    layer = distributed.NeuronParallelLIFLinear
    hidden, output = layer(INPUTS, HIDDEN, leak=0.1), layer(HIDDEN, OUTPUTS, leak=0.1)
    model = torch.nn.Sequential(hidden, output)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def learn(inputs: PackedSpikes, wanted: PackedSpikes) -> float:
        loss = output.masked_loss(hidden(inputs)[0], wanted).loss / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return learn, checkpoint.module_state(model, optimizer)


def by_the_online_rule() -> Learner:
    whole = (torch.rand(HIDDEN, INPUTS) - 0.4) * 0.2, (torch.rand(OUTPUTS, HIDDEN) - 0.5) * 0.2
    weights = distributed.shard(whole)
    rule = OnlineRule(trace="gated", lr=5e-4)
    return lambda x, y: distributed.online_batch_(weights, x, y, rule).loss, checkpoint.online_state(weights)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=("autograd", "online"), default="autograd")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--folder", default="distributed-run")
    options = parser.parse_args()
    gpus = torch.cuda.device_count()  # the timeout is when the others notice a process that hangs
    dist.init_process_group("nccl" if gpus else "gloo", timeout=datetime.timedelta(minutes=1))
    rank, ranks = distributed.rank_and_size()
    if gpus:
        torch.cuda.set_device(rank % gpus)
        torch.set_default_device("cuda")
    torch.manual_seed(0)  # the same on all ranks: patterns, and the weights that each takes its slice of
    patterns, targets = (torch.rand(BATCH, INPUTS) < 0.02) * 0.3, (torch.rand(BATCH, OUTPUTS) < 0.2) * 0.5
    learn, state = by_autograd() if options.way == "autograd" else by_the_online_rule()
    done = 0
    if path := checkpoint.latest(options.folder):
        checkpoint.load_(path, state)
        done = checkpoint.step_of(path)
    for batch in range(done, options.batches):
        inputs, wanted = (poisson_encode(p, STEPS, seed=s, offset=batch) for s, p in enumerate((patterns, targets)))
        loss = learn(inputs, wanted)
        if (batch + 1) % 10 == 0:
            checkpoint.save(options.folder, batch + 1, state)
            if rank == 0:
                print(f"batch {batch + 1} on {ranks} ranks, from batch {done} on: loss {loss:.2f}")
    distributed.shutdown()


if __name__ == "__main__":
    main()
