"""Models that score lists: a query is a list, whatever it is joined with, and is never split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture import Architecture, Dense
from dlrmjit.architecture.families import HEADS, head_nodes
from dlrmjit.cli.commands import prepare, train
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.model import Model
from dlrmjit.serve.batcher import Batcher, Work
from dlrmjit.serve.encode import Encoder
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.processes.host import load_stages
from dlrmjit.serve.processes.wire import Refused, Spec
from dlrmjit.serve.processes.worker import Stage, Task, answer
from dlrmjit.serve.queries import Mappings
from dlrmjit.serve.rows import Bags, Rows, User, batch_of
from tests.builders import family
from tests.serve.conftest import running

CONTEXT = [head for head in HEADS if head != "pointwise"]
TABLES = (20, 30)


def one_list(rng: np.random.Generator, n: int) -> Rows:
    ids = np.stack([rng.integers(0, rows, n) for rows in TABLES])
    return Rows(rng.standard_normal((n, 3)).astype(np.float32), Bags(ids))


def alone(model: Model, rows: Rows) -> np.ndarray:
    batch = batch_of(np.ascontiguousarray(rows.full_dense), rows.bags)
    return model.scores(ListBatch(batch, [0, batch.n]))


def deepfm(head: str, backend: str = "reference") -> Model:
    values = {"head": head, "head_layers": (9, 5, 1), "head_dim": 7}
    config = family("deepfm", table_rows=TABLES, dense_features=3, mlp_bottom=(3, 4), **values)
    return Model(config, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "jit"])
@pytest.mark.parametrize("head", CONTEXT)
def test_a_query_has_the_scores_of_its_list_whatever_it_is_joined_with(
    head: str, backend: str
) -> None:
    model, rng = deepfm(head, backend), np.random.default_rng(0)
    engine, parts = Engine(model, 64), [one_list(rng, n) for n in (7, 1, 20, 16)]
    for found, rows in zip(engine.score(parts), parts, strict=True):
        np.testing.assert_allclose(found, alone(model, rows), rtol=2e-5, atol=1e-6)
    together = np.concatenate(engine.score(parts)[:3])
    if backend == "jit":
        assert np.array_equal(
            together, np.concatenate([engine.score([part])[0] for part in parts[:3]])
        )


@pytest.mark.parametrize("head", CONTEXT)
def test_dense_values_of_a_user_do_not_make_the_list_the_users(head: str) -> None:
    """Layers over dense values alone are computed once per user, but no layer over a list is."""
    nodes = (Dense("x", features=3), *head_nodes("x", head, (9, 5, 1), 7))
    model, rng = Model(Architecture(nodes), backend="reference"), np.random.default_rng(1)
    parts = []
    for n in (4, 6):
        none = Bags(np.empty((0, n), np.int64))
        dense = rng.standard_normal((1, 3)).astype(np.float32)
        parts.append(Rows(dense, none, User((), None, True)))
    for found, rows in zip(Engine(model, 32).score(parts), parts, strict=True):
        np.testing.assert_allclose(found, alone(model, rows), rtol=2e-5, atol=1e-6)


def test_a_cost_is_measured_on_lists() -> None:
    cost = Engine(deepfm("fate"), 160).warm()
    assert cost.per_row > 0


def test_a_list_is_never_split() -> None:
    queue: Batcher[int] = Batcher({0: 256, 1: 256}, lambda job: False, whole=(0,))
    for job, rows in enumerate((200, 100, 50, 256)):
        queue.add(Work(job, 0, rows, float(job)))
    queue.add(Work(9, 0, 300, 9.0, 1))
    taken = []
    while batch := queue.take(2):
        assert sum(work.rows for work in batch) <= 256
        taken.append([(work.job, work.begin, work.end) for work in batch])
    lists = sorted(part for batch in taken for part in batch if part[0] != 9)
    assert lists == [(0, 0, 200), (1, 0, 100), (2, 0, 50), (3, 0, 256)]
    assert sum(end - begin for batch in taken for job, begin, end in batch if job == 9) == 300


def test_rows_that_spoil_their_whole_list_are_refused_without_a_number() -> None:
    model = deepfm("fate")
    model.load_state({name: 100 * value for name, value in model.state_dict().items()})
    rows = one_list(np.random.default_rng(2), 4)
    rows.dense[2] = 3e38
    encoder = type("Encoded", (), {"encode": lambda self, part: part})()
    (found,) = answer(Task(1, 0, (rows,)), [Stage(Engine(model, 64), encoder)]).parts
    assert isinstance(found, Refused)
    assert found.message.startswith("the rows: the score is not a number")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of lists, and two models of it: one scores rows, one scores lists."""
    folder, rng = tmp_path_factory.mktemp("lists"), np.random.default_rng(0)
    lines = ["query,age,price,item,clicked"]
    for query in range(60):
        age = rng.integers(20, 60)
        for _ in range(rng.integers(2, 7)):
            item, price = rng.integers(0, 9), rng.integers(1, 99)
            lines.append(f"q{query},{age},{price},i{item},{rng.integers(0, 2)}")
    (folder / "log.csv").write_text("\n".join([*lines, ""]))
    standardised = [{"name": n, "transform": "standardise"} for n in ("age", "price")]
    schema = {"label": "clicked", "lists": "query", "dense": standardised, "categorical": ["item"]}
    (folder / "log.json").write_text(json.dumps(schema))
    words = [str(folder / "log.csv"), "--schema", str(folder / "log.json"), "--split=none"]
    assert prepare.main([*words, "--out", str(folder / "set")]) == 0
    for name, head in (("rows", ()), ("lists", ("--head=fate", "--head-layers=8-1"))):
        words = [str(folder / "set"), "--model=deepfm", "--list-loss=listnet", *head]
        words += ["--arch-sparse-feature-size=4", "--arch-mlp-top=8-1", "--nepochs=2"]
        assert train.main([*words, f"--save-model={folder / name}", "--backend=reference"]) == 0
    return folder


def test_rank_orders_candidates_by_the_scores_of_their_list(home: Path) -> None:
    user, rng = {"age": 31}, np.random.default_rng(3)
    items = [{"price": int(rng.integers(1, 99)), "item": f"i{j % 9}"} for j in range(40)]
    model = dlrmjit.load(home / "lists", backend="reference")
    encoder = Encoder(model)
    with running(home / "lists", "--budget-ms=20000", "--batch-size=32") as client:
        for shown in (items[:1], items[:30]):
            status, found = client.post("/rank", {"user": user, "items": shown})
            wanted = alone(model, encoder.encode(Mappings([{**user, **item} for item in shown])))
            assert (status, found["ranked"]) == (200, len(shown))
            np.testing.assert_allclose(found["scores"], wanted[found["order"]], rtol=1e-5)
            assert found["order"] == np.argsort(-wanted, kind="stable").tolist()
        status, found = client.post("/rank", {"user": user, "items": items})
        assert (status, found["ranked"]) == (200, 32)  # the largest list that fits into a batch
        assert found["order"][32:] == list(range(32, 40))
        status, found = client.post("/predict", {"rows": [{**user, **items[0]}]})
        assert status == 400
        assert "send a list to /rank" in found["error"]


def test_a_model_of_lists_is_no_prerank(home: Path) -> None:
    paths = str(home / "rows"), str(home / "lists")
    with pytest.raises(ConfigError, match="a prerank scores candidates one by one"):
        load_stages(Spec(*paths, most=32, backend="reference"))


def test_a_policy_that_values_single_candidates_is_refused(home: Path) -> None:
    import asyncio

    from dlrmjit.serve.allocation.cras import CrasPolicy
    from dlrmjit.serve.service import Limits, Service

    spec = Spec(str(home / "lists"), most=32, backend="reference")
    with pytest.raises(CheckpointError, match="which only --policy fixed allows"):
        asyncio.run(Service(spec, Limits(), CrasPolicy(0.1)).start())
