"""Flags of the command ``embed``."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.domain import at_least
from dlrmjit.cli.options.flag import Command, Flag, FlagGroup
from dlrmjit.cli.options.kinds import switch

EMBED = Command(
    "embed",
    "Write the vectors (N, 512) or (N, 2048) of images by a ResNet, the means of its last layer's "
    "pixels.",
    (
        FlagGroup(
            "embed",
            (
                Flag(
                    "weights",
                    Path,
                    None,
                    "a safetensors file of a ResNet-18, 34, 50, 101 or 152 by torchvision's or "
                    "timm's names",
                    is_operand=True,
                    is_required=True,
                ),
                Flag(
                    "images",
                    Path,
                    None,
                    "a .npy file of images (N, C, H, W), normalised floats",
                    is_operand=True,
                    is_required=True,
                ),
                Flag("out", Path, None, "the .npy file to write", metavar="FILE", is_required=True),
                Flag("imagenet", switch, False, "images are uint8 RGB: normalise them"),
                Flag("logits", switch, False, "write the outputs of the last layer, fc"),
                Flag("batch-size", int, 16, "images at a time", domain=at_least(1)),
                Flag("backend", str, None, "jit or reference", values=("jit", "reference")),
            ),
        ),
    ),
)
