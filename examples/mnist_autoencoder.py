"""Train a spiking autoencoder online, one batch at a time, and look at what it reconstructs.

    python examples/mnist_autoencoder.py                     # MNIST, half a minute
    python examples/mnist_autoencoder.py --dataset digits    # 8x8 digits, no download

`spikefuse train autoencoder` does the same with checkpoints and tables; this is the loop itself, to be changed.
"""

from __future__ import annotations

import argparse

import torch

from spikefuse import data
from spikefuse.functional import poisson_encode
from spikefuse.paper import metrics
from spikefuse.paper.models import SpikingAutoencoder, preset
from spikefuse.paper.plots import pictures

STEPS = 15  # time steps of an image
RATE = 0.5  # spike probability per step of a white pixel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", choices=data.DATASETS, default="mnist")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=196)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--limit", type=int, help="train on the first LIMIT images")
    parser.add_argument("--picture", default="reconstructions.png")
    options = parser.parse_args()

    train = data.load(options.dataset, "train").images[: options.limit]
    test = data.load(options.dataset, "test")
    settings = preset("shared", train.shape[1])
    torch.manual_seed(0)
    model = SpikingAutoencoder(train.shape[1], options.hidden, settings.rule, init_bound=settings.init_bound)

    batch = 0
    for _ in range(options.epochs):
        for chosen in torch.randperm(len(train)).split(options.batch_size):
            spikes = poisson_encode(train[chosen] * RATE, STEPS, seed=0, offset=batch)
            stats = model.learn_(spikes)
            batch += 1
            if batch % 50 == 0:
                error = metrics.spike_mse(stats.spike_counts[-1], spikes.counts())
                print(f"batch {batch}: Spike-MSE {error:.3f}, hidden rate {stats.firing_rates[0]:.1%}")

    images = test.images[:500]
    inputs = poisson_encode(images * RATE, STEPS, seed=1)
    hidden = model.encode(inputs)
    outputs = model.decode(hidden).counts()
    print(f"test MSE {metrics.mse(outputs, images):.3f}, Spike-MSE {metrics.spike_mse(outputs, inputs.counts()):.3f}")

    rows = [
        ("image", images[:10], test.image_shape),
        ("input spikes", inputs.counts()[:10], test.image_shape),
        ("output spikes", outputs[:10], test.image_shape),
    ]
    print("wrote", pictures.save_maps(options.picture, rows))


if __name__ == "__main__":
    main()
