"""Flags of the commands ``export`` and ``embed``."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.command_flags import INTERACTION
from dlrmjit.cli.options.domain import at_least
from dlrmjit.cli.options.flag import Command, Flag, FlagGroup
from dlrmjit.cli.options.kinds import switch

EXPORT = Command(
    "export",
    "Write a saved model for another program. An ONNX file has the inputs dense (N, D) and ids "
    "(N, S), encoded, and the output scores (N,).",
    (
        FlagGroup(
            "export",
            (
                Flag(
                    "model",
                    Path,
                    None,
                    "a saved model: a directory, or the reference's .pt",
                    is_operand=True,
                    is_required=True,
                ),
                Flag("to", str, "onnx", "the format", values=("onnx",)),
                Flag("out", Path, None, "the file to write", metavar="FILE", is_required=True),
                Flag(
                    "lookups",
                    int,
                    1,
                    "ids of a bag: with more than 1, ids are (N, S, P), and a negative one is no "
                    "lookup",
                    domain=at_least(1),
                ),
                *INTERACTION,
            ),
        ),
    ),
)
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
