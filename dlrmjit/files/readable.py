"""What a path leads to, before it is opened: reading a pipe or a device may wait or never end."""

from __future__ import annotations

import os
import stat

from dlrmjit.errors import DataError, DlrmjitError

_MOST_SHOWN = 200  # characters of a path in a message


def refuse_special(
    path: str | os.PathLike[str], error: type[DlrmjitError] = DataError, what: str = ""
) -> None:
    """Raise ``error`` for a path that cannot be looked at, or leads to no file or folder.

    ``what`` precedes the path in messages. A path that does not exist passes: the caller that opens
    it knows what is missing.
    """
    shown = f"{what}{os.fspath(path):.{_MOST_SHOWN}}"
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as reason:
        raise error(f"{shown} cannot be read: {reason.strerror}") from None
    except ValueError as reason:  # a null character
        raise error(f"{shown!r} cannot be read: {reason}") from None
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise error(f"{shown} is a pipe, socket or device; write it to a file first")
