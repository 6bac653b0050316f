"""Exchange small JSON-ready values between all ranks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dlrmjit.parallel.comm.protocol import Comm


def exchange_json(comm: Comm, value: Any, name: str = "values") -> list[Any]:
    """Return the JSON-ready values of all ranks, on every rank, in the order of the ranks."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.empty(comm.size, np.int64)
    comm.allgatherv(np.array([text.size]), sizes, [1] * comm.size, name=name).wait()
    every = np.empty(int(sizes.sum()), np.uint8)
    comm.allgatherv(text, every, sizes.tolist(), name=name).wait()
    ends = np.cumsum(sizes)
    return [json.loads(every[e - s : e].tobytes()) for s, e in zip(sizes, ends, strict=True)]
