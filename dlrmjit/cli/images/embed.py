"""The command ``embed``: vectors of images by a residual network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.export_flags import EMBED
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import check_new, new_file, try_destination

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet, by which torchvision and timm normalise."""
Images = NDArray[Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(parse_command(EMBED, sys.argv[1:] if argv is None else argv)))


def _run(options: Any) -> None:
    from dlrmjit.data.stored.npy import map_array
    from dlrmjit.embed.encoder import Encoder
    from dlrmjit.embed.weights import read_network

    out: Path = options.out
    if out.suffix != ".npy":
        raise ConfigError(f"--out must end in .npy, not {out.name!r}")
    check_new(out)
    try_destination(out)
    images = map_array(options.images)
    network = read_network(options.weights, options.logits)
    _check(images, options.images, network.channels, options.imagenet)
    c, h, w = images.shape[1:]
    encoder = Encoder(network.node, network.parameters, (c, h, w), options.backend)
    with new_file(out) as file:
        shape = (len(images), encoder.width)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(images), options.batch_size):
            part = images[first : first + options.batch_size]
            vectors = encoder.encode(_normalised(part, first, options))
            if not np.isfinite(vectors).all():
                raise DataError(f"{options.images}: images from {first} on have no finite vectors")
            file.write(vectors.tobytes())
    print(f"{out}: {shape[0]} vectors of width {shape[1]} by a ResNet-{network.node.depth}")


def _check(images: Images, path: Path, channels: int, imagenet: bool) -> None:
    """Raise DataError for an array that is not images of the network."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise DataError(f"{path} has shape {images.shape}, expected images (N, {channels}, H, W)")
    if imagenet:
        if images.dtype != np.uint8 or channels != 3:
            raise DataError(
                f"{path} holds {images.dtype}, but --imagenet normalises uint8 images of three "
                "channels; leave it out for images that are normalised"
            )
    elif images.dtype.kind != "f":
        raise DataError(
            f"{path} holds {images.dtype}, expected floats, normalised as the network was trained; "
            "--imagenet scales uint8 images to [0, 1] and normalises them as torchvision does"
        )


def _normalised(images: Images, first: int, options: Any) -> NDArray[np.float32]:
    """Return a batch as float32; raises DataError for one that is not finite."""
    if options.imagenet:
        mean, deviation = (np.array(x, np.float32)[:, None, None] for x in (MEAN, DEVIATION))
        scaled: NDArray[np.float32] = (images / np.float32(255) - mean) / deviation
        return scaled
    with np.errstate(over="ignore"):
        floats = np.asarray(images, np.float32)
    bad = ~np.isfinite(floats).all(axis=(1, 2, 3))
    if bad.any():
        raise DataError(
            f"{options.images}: image {first + int(bad.argmax())} has numbers that are not finite"
        )
    return floats
