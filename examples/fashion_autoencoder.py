"""A spiking autoencoder of clothes beside an artificial one of the same size: more time steps, more grey levels.

    python examples/fashion_autoencoder.py                                # Fashion-MNIST, two to four minutes
    python examples/fashion_autoencoder.py --dataset digits --hidden 32   # 8x8 digits, no download

`spikefuse reproduce --only F6 --only F7` runs the whole comparison.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from spikefuse import data
from spikefuse.functional import poisson_encode
from spikefuse.paper import metrics
from spikefuse.paper.models import ANNAutoencoder, ANNRule, SpikingAutoencoder, preset
from spikefuse.paper.plots import pictures

RATE = 0.5  # spike probability per step of a white pixel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", choices=data.DATASETS, default="fashion-mnist")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60, help="T spikes at most tell T + 1 grey levels apart")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--limit", type=int, help="train on the first LIMIT images")
    parser.add_argument("--picture", default="fashion.png")
    options = parser.parse_args()

    train = data.load(options.dataset, "train").images[: options.limit]
    test = data.load(options.dataset, "test")
    pixels = train.shape[1]
    settings = preset("shared", pixels)
    torch.manual_seed(0)
    spiking = SpikingAutoencoder(pixels, options.hidden, settings.rule, init_bound=settings.init_bound)
    artificial = ANNAutoencoder(pixels, options.hidden, ANNRule(lr=5e-3, weight_decay=1e-4))

    for batch, chosen in enumerate(torch.randperm(len(train)).split(options.batch_size)):
        images = train[chosen]
        spikes = poisson_encode(images * RATE, options.steps, seed=0, offset=batch)
        stats = spiking.learn_(spikes)  # one update of the weights per time step
        artificial.learn_(images)  # one update per batch
        if batch % 20 == 0:
            error = metrics.spike_mse(stats.spike_counts[-1], spikes.counts())
            print(f"batch {batch + 1}: Spike-MSE {error:.3f}, zeros in E {stats.error_zeros:.1%}")

    images = test.images[:500]
    shown: list[tuple[str, Tensor]] = [("image", images)]
    for steps in (5, 15, options.steps):
        counts = spiking(poisson_encode(images * RATE, steps, seed=1)).counts()
        print(f"spiking, {steps} steps: test MSE {metrics.mse(counts, images):.3f}")
        shown.append((f"spiking, {steps} steps", counts))
    with torch.no_grad():
        outputs = artificial(images)
    print(f"artificial: test MSE {metrics.mse(outputs, images):.3f}")
    shown.append(("artificial", outputs))
    print("wrote", pictures.save_maps(options.picture, [(name, maps[:10], test.image_shape) for name, maps in shown]))


if __name__ == "__main__":
    main()
