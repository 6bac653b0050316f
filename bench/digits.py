"""How well does a small convolutional network read scikit-learn's handwritten digits?

    python -m bench.digits [--epochs 8] [--seed 0] [--backend jit|reference]

A model of two towers, as for items with images: the network makes a vector of an image of 8 x 8
pixels, a table has one of every class, and their product is the logit that the image shows the
class. Trained on ten rows per image of the first 1,347 by binary cross-entropy; the class of the
greatest logit is compared for the last 450, the split that scikit-learn's example has. Every epoch
moves the images by at most one pixel.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.support import harness

CLASSES, SIDE, DIM, TRAINED = 10, 8, 64, 1347
IMAGES_OF_BATCH, RATE = 32, 0.003


def network() -> Any:
    """Return the architecture."""
    from dlrmjit.architecture import (
        Architecture,
        Convolution,
        Dense,
        Embedding,
        Flatten,
        Images,
        Interaction,
        Mlp,
        Pooling,
    )

    return Architecture(
        (
            Dense("pixels", features=SIDE * SIDE),
            Images("image", ("pixels",), (1, SIDE, SIDE)),
            Convolution("conv1", ("image",), 32, padding=1, batch_norm=True),
            Convolution("conv2", ("conv1",), 64, padding=1, batch_norm=True),
            Pooling("pool", ("conv2",)),
            Convolution("conv3", ("pool",), 64, padding=1, batch_norm=True),
            Flatten("flat", ("conv3",)),
            Mlp("tower", ("flat",), (DIM,), last="none", dropout=0.0),
            Embedding("classes", rows=(CLASSES,), dim=DIM),
            Interaction("products", ("classes", "tower")),
            Mlp("logit", ("products",), (1,), last="none"),
        )
    )


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images (N, 8, 8) of numbers from 0 to 1, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target.astype(np.int64)


def rows_of(images: NDArray[np.float32], targets: NDArray[np.int64]) -> Any:
    """Return ten rows per image, one for every class."""
    import dlrmjit

    n = len(images)
    pixels = np.repeat(images.reshape(n, -1), CLASSES, axis=0)
    ids = np.tile(np.arange(CLASSES), n)
    labels = (ids == np.repeat(targets, CLASSES)).astype(np.float32)
    return dlrmjit.Batch(pixels, [ids], [np.arange(n * CLASSES + 1)], labels)


def batches(
    images: NDArray[np.float32], targets: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[Any]:
    """Yield all images in random order, each moved by at most one pixel."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    down, across = rng.integers(0, 3, (2, len(images)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), (1, 2))
    moved = views[np.arange(len(images)), down, across]
    order = rng.permutation(len(images))
    for first in range(0, len(order), IMAGES_OF_BATCH):
        chosen = order[first : first + IMAGES_OF_BATCH]
        yield rows_of(moved[chosen], targets[chosen])


def accuracy(model: Any, images: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the share of images whose class has the greatest logit."""
    scores = model.scores(rows_of(images, targets)).reshape(len(images), CLASSES)
    return float((scores.argmax(axis=1) == targets).mean())


def trained(epochs: int, seed: int, backend: str | None = None) -> Any:
    """Return a model after training on the first images."""
    import dlrmjit

    images, targets = digits()
    random = np.random.RandomState(seed)
    model = dlrmjit.Model(network(), backend=backend, rng=random)
    step, rng = dlrmjit.TrainingStep(model, "adam"), np.random.default_rng(seed)
    for epoch in range(epochs):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for batch in batches(images[:TRAINED], targets[:TRAINED], rng):
            step(batch, rate)
    return model


def main() -> None:
    """Train and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("jit", "reference"))
    options = parser.parse_args()
    began = time.perf_counter()
    model = trained(options.epochs, options.seed, options.backend)
    seconds, (images, targets) = time.perf_counter() - began, digits()
    found = accuracy(model, images[TRAINED:], targets[TRAINED:])
    print(f"test accuracy {100 * found:.2f} % of 450 images, {seconds:.1f} s of training")


if __name__ == "__main__":
    harness.run_program(main)
