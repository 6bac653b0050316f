"""The same as ``killed_group``, on a file system that has no hard links."""

import errno
import os

from tests.files import killed_group
from tests.files.killed_group import check, prepare

__all__ = ["act", "check", "prepare"]


def act(folder):
    os.link = refuse
    killed_group.act(folder)


def refuse(*_, **__):
    raise OSError(errno.EPERM, "no links here")
