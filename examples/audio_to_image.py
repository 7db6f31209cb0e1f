"""Hear a spoken digit and watch its image come into view, frame by frame.

    python examples/audio_to_image.py            # FSDD and MNIST, some two minutes
    python examples/audio_to_image.py --tones    # two pitches stand for two 8x8 digits, no download, seconds

`spikefuse train audio-to-image` does the same with checkpoints, all sizes and tables.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from spikefuse import data
from spikefuse.audio import Cochleagram
from spikefuse.online import OnlineRule
from spikefuse.paper.models import Audiocoder, AudioToImage, ImageStream, SpikingAutoencoder, preset
from spikefuse.paper.plots import pictures
from spikefuse.paper.training import audio_to_image
from spikefuse.paper.training.autoencoder import Trainer
from spikefuse.paper.training.loop import TrainSettings

CHANNELS, RATE = 39, 0.02  # of the ear; spike probability per step of loud sound


def sounds(tones: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cochleagrams and labels, to train on and to test with."""
    ear = Cochleagram()
    if tones:
        torch.manual_seed(0)
        time, labels = torch.arange(4000) / 8000, torch.arange(40) % 2
        waves = [torch.sin(6.28 * time * (300 + 1500 * y) * (1 + 0.05 * torch.rand(()))) / 2 for y in labels.tolist()]
        rates = ear(torch.stack(waves).unsqueeze(1), 8000)
        return rates[:30], labels[:30], rates[30:], labels[30:]
    train, test = (data.load_fsdd().select(split=split) for split in data.SPLITS)
    return ear.encode(train), train.labels, ear.encode(test), test.labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tones", action="store_true")
    parser.add_argument("--hidden", type=int, default=256, help="hidden neurons of the audiocoder")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--picture", default="heard.png")
    options = parser.parse_args()

    rates, labels, test_rates, test_labels = sounds(options.tones)
    images = data.load("digits" if options.tones else "mnist", "train")
    pixels, code = images.images.shape[1], 32 if options.tones else 196

    # 1. An autoencoder of images. 2. An audiocoder that learns to emit its hidden spikes.
    autoencoder = SpikingAutoencoder(pixels, code, preset("shared", pixels).rule)
    settings = TrainSettings(epochs=4, batch_size=10, max_rate=0.7) if options.tones else TrainSettings()
    Trainer(autoencoder, images.images, settings).run()
    coder = Audiocoder(rates.shape[1], options.hidden, code, OnlineRule(lr=5e-4))
    model = AudioToImage(coder, autoencoder, duration=10, image_rate=settings.max_rate)
    pairs = data.pair("A", rates, labels, images.images, images.labels)  # one image for each class
    learning = TrainSettings(epochs=options.epochs, batch_size=10 if options.tones else 50, steps=60, max_rate=RATE)
    trainer = audio_to_image.SynthesisTrainer(model, pairs, learning)
    for epoch in range(options.epochs):
        trainer.run(until=(epoch + 1) * trainer.batches_per_epoch)
        score = audio_to_image.evaluate(model, test_rates, test_labels, pairs, learning)
        print(f"epoch {epoch + 1}: test MSE {score.mse:.3f}")
    print(f"mean image: test MSE {audio_to_image.baselines(test_labels, pairs).mean_image:.3f}")

    # 3. The first test sound, a tenth of a second at a time.
    stream, rows = ImageStream(model, channels=CHANNELS, max_rate=RATE), []
    for frames in test_rates[0].view(-1, CHANNELS).split(125):
        rows.append(stream.hear(frames, steps=5))
    titles = [f"{i / 10:.1f} s" for i in range(1, len(rows) + 1)]
    shape = pictures.near_square(pixels)
    print("wrote", pictures.save_maps(options.picture, [("heard so far", torch.cat(rows), shape)], titles=titles))


if __name__ == "__main__":
    main()
