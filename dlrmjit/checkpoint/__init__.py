"""Checkpoints: directories of safetensors files, and the reference program's ``.pt`` files."""

from dlrmjit.checkpoint.destination import (
    check_destination,
    hold_destination,
    refuse_held_destination,
)
from dlrmjit.checkpoint.file_images import ImageMemory
from dlrmjit.checkpoint.reader import Checkpoint, open_checkpoint
from dlrmjit.checkpoint.strict import check_config, check_parameters
from dlrmjit.checkpoint.torch_format.reader import TorchCheckpoint, read_torch_file
from dlrmjit.checkpoint.torch_format.writer import check_torch_destination, write_torch_file
from dlrmjit.checkpoint.writer import (
    copy_checkpoint,
    save_checkpoint,
    write_checkpoint,
)

__all__ = [
    "Checkpoint",
    "ImageMemory",
    "TorchCheckpoint",
    "check_config",
    "check_destination",
    "check_parameters",
    "check_torch_destination",
    "copy_checkpoint",
    "hold_destination",
    "open_checkpoint",
    "read_torch_file",
    "refuse_held_destination",
    "save_checkpoint",
    "write_checkpoint",
    "write_torch_file",
]
