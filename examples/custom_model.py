"""Put spiking layers into a PyTorch model of your own and train it by autograd: a classifier of handwritten digits.

    python examples/custom_model.py

The 8x8 digits of scikit-learn need no download.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import spikefuse
from spikefuse import PackedSpikes, data
from spikefuse.functional import poisson_encode

STEPS = 20


class Classifier(nn.Module):
    """Spikes in, one membrane potential per class out, averaged over time."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = spikefuse.LIFLinear(inputs, hidden, beta=0.9, surrogate="atan", slope=2.0, learn_beta=True)
        # The readout never spikes: its threshold is out of reach, and its potential is the answer.
        self.readout = spikefuse.LIFLinear(hidden, classes, beta=0.9, threshold=1e9)

    def forward(self, spikes: PackedSpikes) -> Tensor:
        hidden, _ = self.hidden(spikes)
        _, _, v = self.readout(hidden, return_vmem=True)
        return v.mean(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    train, test = data.load("digits", "train"), data.load("digits", "test")
    torch.manual_seed(0)
    model = Classifier(64, 128, train.num_classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    batch = 0
    for epoch in range(options.epochs):
        total = 0.0
        for chosen in torch.randperm(len(train)).split(50):
            logits = model(poisson_encode(train.images[chosen], STEPS, seed=0, offset=batch))
            loss = nn.functional.cross_entropy(logits, train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
            batch += 1
        with torch.no_grad():
            answers = model(poisson_encode(test.images, STEPS, seed=1)).argmax(1)
        accuracy = (answers == test.labels).float().mean().item()
        print(f"epoch {epoch + 1}: loss {total / len(train):.3f}, test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
