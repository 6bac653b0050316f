"""A command on several ranks: all of them start, fail and end together.

A rank may fail before MPI has started, as for a mistyped option that only it has. It joins the
others nevertheless, to tell them; where it cannot, it asks the launcher to end them.
"""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dlrmjit import launchers
from dlrmjit.cli.exit_codes import DONE, FAILED, INTERRUPTED, WRONG_INPUT, exit_code_of
from dlrmjit.cli.streams import usable_streams
from dlrmjit.errors import DlrmjitError
from dlrmjit.launchers import Launch, seconds_after_lower_ranks

if TYPE_CHECKING:
    from dlrmjit.cli.build.facts import Facts
    from dlrmjit.parallel.comm import Comm

_ERROR = "dlrmjit: error: "


@dataclass(frozen=True)
class Job:
    """A command that runs on several ranks.

    ``parse`` returns its options, one of which is ``comm_timeout``; ``run`` runs it with them and
    returns the exit code; ``facts`` are what all ranks must have in common. It needs about so many
    ``kernels``.
    """

    parse: Callable[[], Any]
    run: Callable[[Any, Comm], int]
    facts: Callable[[Any], Facts]
    kernels: int = 0


@dataclass(frozen=True)
class Start:
    """How a rank started: with options, or with what it would print and the exit code."""

    options: Any = None
    code: int = DONE
    text: str = ""

    @property
    def ending(self) -> list[Any] | None:
        """The code and the text of a rank that has nothing to run, ready for JSON."""
        return None if self.options else [self.code, self.text]


def run_command(job: Job, alone: Callable[[], int]) -> int:
    """Run a command on the ranks of a launcher, or ``alone``; return the exit code."""
    launches: list[Launch | None] = []
    code = exit_code_of(lambda: launches.append(launchers.launched()))
    if not launches:
        launchers.abort(code)
        return code
    if launches[0] is None:
        return _exit_code(alone, job)
    return run_on_ranks(job, launches[0])


def start(parse: Callable[[], Any]) -> Start:
    """Parse the options; whatever goes wrong or is asked for becomes part of the result."""
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            return Start(parse())
    except SystemExit as asked:  # --help or --version
        return Start(code=int(asked.code or DONE), text=output.getvalue())
    except KeyboardInterrupt:
        return Start(code=INTERRUPTED, text="dlrmjit: interrupted")
    except DlrmjitError as error:
        return Start(code=WRONG_INPUT, text=f"dlrmjit: error: {error}")
    except Exception:
        return Start(code=FAILED, text=f"dlrmjit: error: failed\n{traceback.format_exc()}")


def run_on_ranks(job: Job, launch: Launch) -> int:
    """Run a command on the ranks of ``launch``; return the exit code.

    Only the first rank prints. If ranks differ in what they are asked to do, or one of them
    fails, all end with one sentence.
    """
    started = start(job.parse)
    try:
        comm = _join(started)
    except DlrmjitError as error:
        return _end_alone(started, launch, Start(code=WRONG_INPUT, text=f"{_ERROR}{error}"))
    except KeyboardInterrupt:
        return _end_alone(started, launch, Start(code=INTERRUPTED, text="dlrmjit: interrupted"))
    except Exception:
        failure = f"dlrmjit: error: rank {launch.rank} failed\n{traceback.format_exc()}"
        return _end_alone(started, launch, Start(code=FAILED, text=failure))
    if comm.rank == 0:
        return _exit_code(lambda: _run_together(started, job, comm), job)
    with open(os.devnull, "w") as null, redirect_stderr(null), redirect_stdout(null):
        return _exit_code(lambda: _run_together(started, job, comm), job)


def _exit_code(action: Callable[[], int], job: Job) -> int:
    codes = []
    return exit_code_of(lambda: codes.append(action()), job.kernels) or codes[0]


def _join(started: Start) -> Comm:
    """Start MPI; raises DlrmjitError where this rank cannot."""
    from dlrmjit.parallel.comm import world

    return world(started.options.comm_timeout if started.options else None)


def _end_alone(started: Start, launch: Launch, failure: Start) -> int:
    """Report, without MPI, how this rank has ended, and end the others if it is a failure.

    Lower ranks come first: if they fail likewise, they end this one before it reports.
    """
    ending = failure if started.options else started
    time.sleep(seconds_after_lower_ranks(launch.rank))
    stream = sys.stderr if ending.code else sys.stdout
    with usable_streams(), suppress(OSError):
        print(ending.text.rstrip("\n"), file=stream, flush=True)
    if ending.code:
        launchers.abort(ending.code)
    return ending.code


def _run_together(started: Start, job: Job, comm: Comm) -> int:
    """Run and end MPI; return the exit code. A failure of one rank ends all."""
    from dlrmjit.cli.build.distributed import abort_on_error
    from dlrmjit.parallel.comm import finish

    codes = []

    def action() -> None:
        codes.append(_run_if_alike(started, job, comm))
        finish(comm, started.options.comm_timeout if started.options else None)

    abort_on_error(action, comm)
    return codes[0]


def _run_if_alike(started: Start, job: Job, comm: Comm) -> int:
    """Run if all ranks were started alike; return the exit code of this and every other rank."""
    from dlrmjit.parallel.comm import RanksDifferError, exchange_json, require_agreement

    options = started.options
    endings = [_Ending(*e) if e else None for e in exchange_json(comm, started.ending, "start")]
    if options is None or any(endings):
        return _report(endings)
    try:
        require_agreement(comm, job.facts(options), "start")
    except RanksDifferError as error:
        print(f"{_ERROR}{error}", file=sys.stderr)
        return WRONG_INPUT
    return job.run(options, comm)


class _Ending(NamedTuple):
    """The exit code of a rank that has nothing to run, and what it would print."""

    code: int
    text: str


def _report(endings: list[_Ending | None]) -> int:
    """Print why not all ranks run, in one sentence; return the exit code."""
    first = endings[0]
    if first and all(ending == first for ending in endings):
        print(first.text.rstrip("\n"), file=sys.stderr if first.code else sys.stdout)
        return first.code
    for rank, ending in enumerate(endings):
        if ending and ending.code:
            text = ending.text.removeprefix(_ERROR).removeprefix("dlrmjit: ")
            print(f"{_ERROR}rank {rank}: {text}".rstrip("\n"), file=sys.stderr)
            return ending.code
    asked = next(rank for rank, ending in enumerate(endings) if ending)
    print(
        f"{_ERROR}rank {asked} was started with --help or --version, other ranks were not; "
        "start all with the same options",
        file=sys.stderr,
    )
    return WRONG_INPUT
