"""Damages files of a kernel cache, one after another, and runs a program on what is left.

    python -m tests.reliability.cache_damage [--files 200] [--seed 0]

Files are compiled once; each time a copy of one is damaged: bits flipped, cut short, emptied,
filled with zeros, or exchanged for another file. A new process must then give the same results.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import hashlib
import numpy as np
from dlrmjit_kernels import (
    AdagradRows, EmbeddingTables, Matrix, fc_forward, loss_forward, named_target, sgd_step
)
tables = EmbeddingTables([50, 60], 16)
tables.initialise_uniform(3)
indices, offsets = np.arange(40), np.arange(0, 41, 10).reshape(1, 5)[:, [0, 1, 2]].repeat(2, 0)
offsets = offsets + [[0], [20]]
out = np.zeros((2, 2, 16), np.float32)
tables.lookup(indices, offsets, out)
rule = AdagradRows(0.1)
tables.apply_gradient(indices, offsets, out, rule, tables.new_state(rule))
x, w = Matrix.empty_blocked(20, 13), Matrix.empty_panels(13, 33)
y = Matrix.empty_blocked(20, 33)
x.assign(np.arange(260).reshape(20, 13) / 100), w.assign(np.ones((13, 33)))
fc_forward(x, w, None, y, "relu")
p = np.linspace(0, 1, 5000, dtype=np.float32)
sgd_step(p, p.copy(), 0.5)
loss, probabilities = loss_forward("bce", y.to_numpy()[:, 0].copy(), np.ones(20, np.float32))
digest = hashlib.sha256()
for array in (out, tables.table(0), tables.table(1), y.to_numpy(), p, probabilities):
    digest.update(np.ascontiguousarray(array).tobytes())
print(digest.hexdigest(), loss)
"""


def run(cache: Path) -> tuple[int, str]:
    """Run the program with a kernel cache; return its exit status and what it printed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "DLRMJIT_CACHE_DIR": str(cache), "PYTHONPATH": path}
    environment["NUMBA_NUM_THREADS"] = "1"
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _flip(content: bytes, rng: random.Random, files: list[Path]) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 6, 100])):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _cut(content: bytes, rng: random.Random, files: list[Path]) -> bytes:
    return content[: rng.randrange(len(content))]


def _zero(content: bytes, rng: random.Random, files: list[Path]) -> bytes:
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([16, 4096, len(content)]))
    return content[:start] + bytes(end - start) + content[end:]


def _random(content: bytes, rng: random.Random, files: list[Path]) -> bytes:
    return rng.randbytes(len(content))


def _other(content: bytes, rng: random.Random, files: list[Path]) -> bytes:
    return rng.choice(files).read_bytes()


def _longer(content: bytes, rng: random.Random, files: list[Path]) -> bytes:
    return content + rng.randbytes(rng.choice([1, 1000]))


KINDS: list[Callable[[bytes, random.Random, list[Path]], bytes]] = [
    *(_flip, _cut, _zero, _random, _other, _longer)
]


def cache_files(cache: Path) -> list[Path]:
    """Return the files of a cache that have contents; the locks of processes have none."""
    files = (path for path in sorted(cache.rglob("*")) if path.is_file())
    return [path for path in files if path.stat().st_size]


def damages(cache: Path, count: int, seed: int) -> Iterator[str]:
    """Damage ``count`` files, each in an intact copy of ``cache``; yield what went wrong."""
    rng = random.Random(seed)
    right = run(cache)
    names = [path.relative_to(cache) for path in cache_files(cache)]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            copy = Path(folder) / str(number)
            shutil.copytree(cache, copy)
            name, kind = names[number * 7 % len(names)], KINDS[number % len(KINDS)]
            path = copy / name
            path.write_bytes(kind(path.read_bytes(), rng, cache_files(copy)))
            found = run(copy)
            if found != right:
                yield f"{kind.__name__[1:]} {name}: {found}"
            elif run(copy) != right:
                yield f"{kind.__name__[1:]} {name}: at the next start"
            shutil.rmtree(copy)


def main() -> int:
    """Fill a cache, damage its files and report; return 1 if a result differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200, help="files to damage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        status, text = run(cache)
        assert status == 0, text
        failed = list(damages(cache, options.files, options.seed))
        for line in failed:
            print(f"FAILED {line}")
        count = len(cache_files(cache))
    print(f"{options.files} damaged of {count} files: {len(failed)} crashes or other results")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
