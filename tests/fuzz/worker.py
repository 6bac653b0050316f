"""One process of a campaign: runs libFuzzer, through atheris, on one reader.

An exception that must not come out is written to the folder of findings, once per place, and the
run goes on. A crash, a hang or too much memory ends the process; libFuzzer writes their input.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import traceback
import warnings
from pathlib import Path

import atheris

_INSTRUMENTED = ["dlrmjit", "zipfile", "json", "tomllib", "csv", "gzip"]


class Recorder:
    """Runs inputs and writes down each new fault, by its signature."""

    def __init__(self, name: str, findings: Path) -> None:
        from tests.fuzz.registry import reader_of

        self.reader, self._findings = reader_of(name), findings
        self._known = {json.loads(p.read_text())["signature"] for p in findings.glob("*.json")}
        self.accepted = 0

    def __call__(self, data: bytes) -> None:
        from tests.fuzz.check import check, signature

        try:
            self.accepted += check(self.reader, data)
        except Exception as error:
            if signature(error) not in self._known:
                self._known.add(signature(error))
                self._write(data, signature(error), traceback.format_exc())

    def _write(self, data: bytes, name: str, trace: str) -> None:
        path = self._findings / hashlib.sha256(name.encode()).hexdigest()[:12]
        path.write_bytes(data)
        path.with_suffix(".json").write_text(json.dumps({"signature": name, "trace": trace}))


def _mutator(header: int):  # type: ignore[no-untyped-def]
    from tests.fuzz.mutate import mutate

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        head, content = bytearray(data[:header].ljust(header, b"\0")), data[header:]
        changed = mutate(content, rng) if rng.random() < 0.6 else None
        if changed is None or len(changed) + header > max_size:
            return atheris.Mutate(data, max_size)  # type: ignore[no-any-return]
        if header > 1 and rng.random() < 0.1:
            head[1] ^= 1 << rng.randrange(2)
        return bytes(head) + changed

    return change


def main() -> None:
    """Run the reader and folder of findings named first; other arguments are libFuzzer's."""
    name, findings, *options = sys.argv[1:]
    with atheris.instrument_imports(include=_INSTRUMENTED, exclude=["dlrmjit_kernels"]):
        recorder = Recorder(name, Path(findings))
    from tests.fuzz.limits import limit_memory

    warnings.simplefilter("error")
    for data in recorder.reader.seeds().values():
        recorder(data)  # compiles all kernels, before time and memory are limited
    limit_memory()
    mutator = _mutator(recorder.reader.header)
    atheris.Setup(["fuzz", *options], recorder, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
