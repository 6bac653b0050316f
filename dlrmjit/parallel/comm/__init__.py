"""Communicators: of one process, of an MPI job, blocking, driven by a thread, or adaptive."""

from __future__ import annotations

from dlrmjit.parallel.comm.abort import (
    fail_together,
    note_on_abort,
    report,
    yield_to_lower_ranks,
)
from dlrmjit.parallel.comm.adaptive import AdaptiveComm, adaptive
from dlrmjit.parallel.comm.agreement import Facts, RanksDifferError, require_agreement
from dlrmjit.parallel.comm.blocking import BlockingComm, blocking
from dlrmjit.parallel.comm.json_exchange import exchange_json
from dlrmjit.parallel.comm.mpi import MpiComm
from dlrmjit.parallel.comm.progress_thread import threaded
from dlrmjit.parallel.comm.protocol import DONE, Buffer, Comm, Counts, Request, Starts
from dlrmjit.parallel.comm.self_comm import SelfComm
from dlrmjit.parallel.comm.start import finish, world

__all__ = [
    "DONE",
    "AdaptiveComm",
    "BlockingComm",
    "Buffer",
    "Comm",
    "Counts",
    "Facts",
    "MpiComm",
    "RanksDifferError",
    "Request",
    "SelfComm",
    "Starts",
    "adaptive",
    "blocking",
    "exchange_json",
    "fail_together",
    "finish",
    "note_on_abort",
    "report",
    "require_agreement",
    "threaded",
    "world",
    "yield_to_lower_ranks",
]
