"""Learn online with targets of your own: show the upper part of a digit, ask for the spikes of all of it.

    python examples/online_completion.py

`online_batch_` takes any number of fully connected layers, any input spikes and any target spikes. Weights change at
every time step; nothing is stored for a backward pass.
"""

from __future__ import annotations

import argparse

import torch

from spikefuse import data, online
from spikefuse.functional import poisson_encode
from spikefuse.paper import metrics

STEPS = 15
VISIBLE = 40  # pixels: the upper five of eight rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()

    images, test = data.load("digits", "train").images, data.load("digits", "test").images
    mask = (torch.arange(64) < VISIBLE).float()
    torch.manual_seed(0)
    # (out, in), stored input-major: the products read one contiguous row for each spike.
    weights = [((torch.rand(64, 96) - 0.5) / 4).t(), ((torch.rand(96, 64) - 0.5) / 5).t()]
    rule = online.OnlineRule(trace="gated", lr=5e-4, weight_decay=1e-4, eps=1e-8)

    batch = 0
    for epoch in range(options.epochs):
        for chosen in torch.randperm(len(images)).split(20):
            # One seed and offset: where a pixel is visible, its input spikes are its target's.
            shown = poisson_encode(images[chosen] * mask, STEPS, seed=0, offset=batch)
            whole = poisson_encode(images[chosen], STEPS, seed=0, offset=batch)
            stats = online.online_batch_(weights, shown, whole, rule)
            batch += 1
        print(f"epoch {epoch + 1}: loss {stats.loss:.1f}, output rate {stats.firing_rates[-1]:.1%}")

    shown = poisson_encode(test * mask, STEPS, seed=1)
    completed = online.forward(weights, shown, rule)[-1].counts()
    print(f"test MSE of what is shown: {metrics.mse(shown.counts(), test):.3f}")
    print(f"test MSE of the output:    {metrics.mse(completed, test):.3f}")


if __name__ == "__main__":
    main()
