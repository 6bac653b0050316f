"""Argument parsers of the smaller commands; a mistake is an error like any other."""

from __future__ import annotations

import argparse
from typing import NoReturn

from dlrmjit.errors import ConfigError


class ArgumentParser(argparse.ArgumentParser):
    """Raises ConfigError instead of leaving the program; options must be written out."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"python -m dlrmjit.{command}", description=description, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as ConfigError."""
        raise ConfigError(f"{message} (see --help)")
