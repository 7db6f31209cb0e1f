"""The event-driven first layer against one that updates all of its rows at every time step.

The op leaves rows alone that have not spiked in the batch, and lets updates of the others wait until a row is read. One
more sample makes it do neither: all of its inputs spike at every step, and its targets are what it emits, so it has no
error and adds nothing to any gradient.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from spikefuse import OnlineRule, online, reference

# each batch is learned once for every number of its steps
pytestmark = pytest.mark.slow

SIZES, STEPS, SAMPLES, BATCHES = (3000, 64, 20), 60, 10, 3
DENSITY = 0.002


def make_batch(seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights, sparse inputs and targets; the last of 11 samples is silent."""
    generator = torch.Generator().manual_seed(seed)
    weights = [
        (torch.rand(o, i, generator=generator, dtype=torch.float64) - shift) * 0.5
        for (i, o), shift in zip(itertools.pairwise(SIZES), (0.4, 0.45), strict=True)
    ]
    inputs = (torch.rand(STEPS, SAMPLES + 1, SIZES[0], generator=generator) < DENSITY).float()
    targets = (torch.rand(STEPS, SAMPLES + 1, SIZES[-1], generator=generator) < 0.2).float()
    inputs[:, -1], targets[:, -1] = 0, 0
    return weights, inputs, targets


def learn_all_rows(
    weights: list[Tensor], inputs: Tensor, targets: Tensor, rule: OnlineRule
) -> tuple[list[Tensor], Tensor, Tensor, list[list[Tensor]]]:
    """New weights of the batch with the waking sample, its inputs and targets, and spikes by step and layer.

    Spikes of a step are the counts of so many steps less those of one fewer, and do not depend on the step's target.
    """
    inputs, targets = inputs.clone(), targets.clone()
    inputs[:, -1] = 1
    counts = [[torch.zeros(SAMPLES + 1, n, dtype=torch.int32) for n in SIZES[1:]]]
    spikes: list[list[Tensor]] = [[]]
    for t in range(1, STEPS + 1):
        learned = [w.clone() for w in weights]
        counts.append(online.online_batch_(learned, inputs[:t], targets[:t], rule).spike_counts)
        spikes.append([(now - before) > 0 for now, before in zip(counts[t], counts[t - 1], strict=True)])
        targets[t - 1, -1] = spikes[t][-1][-1].float()
    learned = [w.clone() for w in weights]
    online.online_batch_(learned, inputs, targets, rule)
    return learned, inputs, targets, spikes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 2.0}, {"lr": 2.0**-7, "optimizer": "sgd"}],
    ids=str,
)
@pytest.mark.parametrize("trace", ["shared", "gated"])
def test_equals_all_rows_at_every_step(trace: str, change: dict[str, float | str], dtype: torch.dtype) -> None:
    # decays of v and of weights that fp32 holds exactly
    rule = OnlineRule(**{"trace": trace, "leak": 0.125, "lr": 2.0**-13, **change})
    sparse = [w.to(dtype) for w in make_batch(0)[0]]
    start, expected = [w.clone() for w in sparse], [w.double().clone() for w in sparse]
    idle = 1.0
    for batch in range(BATCHES):
        _, inputs, targets = make_batch(batch)
        all_rows, woken, its_targets, spikes = learn_all_rows(sparse, inputs, targets, rule)
        stats = online.online_batch_(sparse, inputs, targets, rule)
        for ours, theirs in zip(sparse, all_rows, strict=True):
            assert torch.equal(ours, theirs)
        expected = reference.online_step(
            expected, woken, its_targets, rule, fire=lambda t, layer, _, spikes=spikes: spikes[t][layer]
        )[0]
        idle = min(idle, float((inputs.sum((0, 1)) == 0).double().mean()))
        rates = [float(c[:-1].double().mean()) / STEPS for c in stats.spike_counts]
        assert all(0.02 < rate < 0.9 for rate in rates)
    assert idle > 0.2, "no row was left alone"
    for ours, theirs, before in zip(sparse, expected, start, strict=True):
        assert float((ours - before).abs().max()) > 1e-3 * float(theirs.abs().max())
        difference = (ours.double() - theirs).norm() / theirs.norm()
        assert float(difference) <= (1e-14 if dtype == torch.float64 else 1e-6)
        # each of the updates rounds a weight once more, by half a unit in its last place
        worst = float((ours.double() - theirs).abs().max() / theirs.abs().max())
        assert worst <= BATCHES * STEPS * torch.finfo(dtype).eps / 2
