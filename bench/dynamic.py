"""What dynamic ids cost and give: look-ups of hashed ids against rows, AUC against a vocabulary.

    python -m bench.dynamic [--keys 10000000] [--dims 16,64,128] [--lookups N] [--threads T]
    python -m bench.dynamic --auc [--seeds 3]

First, one table: the pooled vectors of ids that are looked up in the hash table first, against
those of the same rows as indices, drawn uniformly or by Zipf's law. Results are compared before
they are timed; both are alternated. An id costs at least one more random cache line, of a table as
large as that of the ids; what such lines take alone bounds the ratio. With ``--auc``, a
factorisation machine is trained on a stream whose ids double half-way, with dynamic ids and with
rows that a vocabulary of the whole stream gives; the initial values of an id are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime import buffers

from bench.gather import RandomRows
from bench.support import harness

_INSERTED = 1 << 18  # keys at a time
_BATCHES, _BATCH, _COLUMNS, _IDS = 3000, 512, 4, 8000


def main() -> None:
    """Time look-ups, or compare AUCs."""
    parser = harness.options(__doc__)
    parser.add_argument("--keys", type=int, default=10_000_000, help="ids in the table")
    parser.add_argument("--dims", default="16,64,128", help="widths of the table")
    parser.add_argument("--lookups", type=int, default=1 << 16, help="of a batch")
    parser.add_argument("--auc", action="store_true", help="compare AUCs instead")
    parser.add_argument("--seeds", type=int, default=3, help="of the AUCs")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    report = harness.Report(harness.describe_machine(threads, {}))
    report.rows += list(_aucs(options) if options.auc else _times(options))
    report.write(options.json)


def _times(options: Any) -> Iterator[dict[str, Any]]:
    from dlrmjit_kernels import EmbeddingTables
    from dlrmjit_kernels.ids.id_tables import IdTables

    rng, count = np.random.default_rng(0), options.keys
    keys = rng.integers(-(2**63), 2**63 - 1, count)
    ids = IdTables([count])
    for first in range(0, count, _INSERTED):
        part = keys[first : first + _INSERTED]
        ids.assign(part, *_whole(part), np.empty_like(part))
    print(f"{count:,} ids in {ids.nbytes / 2**20:.0f} MiB, {options.lookups:,} look-ups a batch")
    line = _seconds_of_a_line(ids.nbytes, harness.prepare(options.threads))
    print(f"a random cache line of as many bytes takes {1e9 * line:.2f} ns")
    for dim in map(int, options.dims.split(",")):
        tables = EmbeddingTables([count], dim)
        tables.fill(1.0)
        for law in ("uniform", "zipf"):
            yield _compared(options, rng, keys, ids, tables, law, line)


def _seconds_of_a_line(nbytes: int, threads: int) -> float:
    """Return what a random line takes among many, at the best distance between prefetch and use."""
    lines = RandomRows(buffers.ALIGNMENT // 4, threads, nbytes)
    return lines.best(lines.read, 0.5) / len(lines.indices)


def _whole(keys: Any) -> tuple[Any, Any]:
    return np.array([0]), np.array([len(keys)])


def _compared(
    options: Any,
    rng: np.random.Generator,
    keys: Any,
    ids: Any,
    tables: Any,
    law: str,
    line: float,
) -> dict[str, Any]:
    """Return medians and their ratio, of batches that no cache holds from the last time."""
    n, count, dim = options.lookups, len(keys), tables.dim
    many = max(2, (1 << 22) // n)
    drawn = rng.integers(0, count, (many, n)) if law == "uniform" else rng.zipf(1.05, (many, n))
    indices = np.ascontiguousarray(drawn % count)
    hashed, offsets = keys[indices], np.arange(n + 1)[None]
    rows, out, turn = np.empty(n, np.int64), np.empty((n, 1, dim), np.float32), [0, 0]

    def by_rows() -> None:
        turn[0] += 1
        tables.lookup(indices[turn[0] % many], offsets, out)

    def by_ids() -> None:
        turn[1] += 1
        found = hashed[turn[1] % many]
        ids.find(found, *_whole(found), rows)
        tables.lookup(rows, offsets, out)

    by_ids()
    if not np.array_equal(rows, indices[1]):
        raise SystemExit("ids have other rows than they were given")
    samples = harness.alternate({"ids": by_ids, "rows": by_rows}, 3 if options.quick else 8, 200)
    ratio = 1 / samples["rows"].ratio(samples["ids"])
    each = {name: 1e9 * found.median / n for name, found in samples.items()}
    bound = 1 + 1e9 * line / each["rows"] if law == "uniform" else float("nan")
    print(
        f"width {dim:3}, {law:7}: {each['rows']:6.2f} ns a row, {each['ids']:6.2f} ns an id, "
        f"{ratio:.2f} x" + (f" (bound {bound:.2f})" if law == "uniform" else "")
    )
    return {"dim": dim, "law": law, **each, "ratio": ratio, "bound": bound}


def _aucs(options: Any) -> Iterator[dict[str, Any]]:
    from dlrmjit import DynamicIds, Model, TrainingStep
    from dlrmjit.architecture.families import fm
    from dlrmjit.metrics import compute_metrics

    fixed = fm((_IDS,) * _COLUMNS, 8)
    for seed in range(options.seeds):
        found = {}
        for name in ("vocabulary", "dynamic ids"):
            is_dynamic = name != "vocabulary"
            dynamic = DynamicIds(tuple(range(_COLUMNS))) if is_dynamic else None
            model = Model(replace(fixed, dynamic=dynamic), rng=np.random.RandomState(seed))
            step, teacher = TrainingStep(model, "adagrad"), _Teacher(seed, hashes=is_dynamic)
            if not is_dynamic:
                _start_alike(model, teacher, seed)
            for number in range(_BATCHES):
                step(teacher.batch(number, _IDS // (1 + (number < _BATCHES // 2))), 0.1)
            tests = [teacher.batch(_BATCHES + i, _IDS) for i in range(200)]
            scores = np.concatenate([model.predict_proba(batch) for batch in tests])
            labels = np.concatenate([batch.labels for batch in tests])
            found[name] = compute_metrics(scores, labels).auc
        found["difference"] = found["dynamic ids"] - found["vocabulary"]
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.5f}" for name, value in found.items()))
        yield {"seed": seed, **found}


def _start_alike(model: Any, teacher: _Teacher, seed: int) -> None:
    """Give rows the initial values of dynamic ids, so that no other ones make a difference."""
    from dlrmjit import DynamicIds
    from dlrmjit.model.tables import drawn_seed
    from dlrmjit.ops.backend import Origin

    dynamic = replace(model.architecture, dynamic=DynamicIds(tuple(range(_COLUMNS))))
    drawn = drawn_seed(dynamic, np.random.RandomState(seed))
    for t, spec in enumerate(model.architecture.table_specs):
        if spec.node == "emb_l":
            table = model.store.nodes[spec.node].data.table(spec.slot)
            origin = Origin(t, spec.rows, spec.dim)
            rows, keys = np.arange(_IDS), teacher.keys[spec.column]
            model.backend.initialise_rows(table, rows, keys, drawn, origin)


class _Teacher:
    """Clicks of a linear form and products of ids; ``hashes`` are ids of 64 bits."""

    def __init__(self, seed: int, *, hashes: bool) -> None:
        rng = np.random.default_rng(seed)
        self._weights = rng.normal(0, 0.7, (_COLUMNS, _IDS))
        self._factors = rng.normal(0, 0.6, (_COLUMNS, _IDS, 3))
        keys = rng.permutation(_IDS * _COLUMNS).reshape(_COLUMNS, _IDS)
        self.keys = (keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
        self._seed, self._hashes = seed, hashes

    def batch(self, number: int, ids: int) -> Any:
        """Return batch ``number``, of the first ``ids`` ids of each column, low ones often."""
        from dlrmjit import Batch

        rng = np.random.default_rng((self._seed, number))
        drawn = (ids * rng.random((_COLUMNS, _BATCH)) ** 2).astype(np.int64)
        columns = np.arange(_COLUMNS)[:, None]
        factors = self._factors[columns, drawn]
        total = factors.sum(axis=0)
        pairs = ((total**2 - (factors**2).sum(axis=0)) / 2).sum(axis=1)
        logits = self._weights[columns, drawn].sum(axis=0) + pairs - 1
        clicks = rng.random(_BATCH) < 1 / (1 + np.exp(-logits))
        indices = self.keys[columns, drawn] if self._hashes else drawn
        every = [np.arange(_BATCH)] * _COLUMNS
        return Batch(np.empty((_BATCH, 0)), list(indices), every, clicks.astype(np.float32))


if __name__ == "__main__":
    harness.run_program(main)
