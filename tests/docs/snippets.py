"""Reads and runs the snippets of the pages.

A fenced block is run where its page's other blocks ran, unless the words after its language say
something else:

- ``file=PATH`` writes the block there in a copy of the product;
- ``edit=PATH`` applies the block, a diff without line numbers, whose old lines must be there once;
- ``write=NAME`` writes the block into the folder where the commands run;
- ``not run: REASON`` leaves it out.

``<!-- given: NAME... -->`` names what must be in the folder before the next block.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

RUN = ("sh", "python")
PROGRAMS = Path(__file__).parent / "bin"
_BLOCK = re.compile(
    r"^(?:<!-- given: (?P<given>[^\n]+) -->\n)?"
    r"```(?P<language>\w+)"
    r"(?: (?:(?P<action>file|edit|write)=(?P<name>\S+)|not run: (?P<reason>[^\n]+)))?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Snippet(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    action: str | None = None
    name: str | None = None
    reason: str | None = None
    given: tuple[str, ...] = ()

    @property
    def runs(self):
        """Whether the block is executed."""
        return self.language in RUN and self.action is None and self.reason is None


def snippets(page):
    """Return the fenced blocks of a page in order."""
    found = []
    for block in _BLOCK.finditer(page.read_text()):
        fields = block.groupdict()
        given = tuple((fields.pop("given") or "").split())
        found.append(Snippet(**fields, given=given))
    return found


def run(language, text, product, where):
    """Run a block in the folder ``where``, with the packages of ``product``."""
    environment = os.environ | {"PYTHONPATH": f"{product}{os.pathsep}{product / 'kernels'}"}
    folders = (str(PROGRAMS), os.path.dirname(sys.executable), os.environ["PATH"])
    environment["PATH"] = os.pathsep.join(folders)
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-ec", text]
    done = subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
