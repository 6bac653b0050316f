"""Ranks that exchange sums instead of vectors train the same models, and send what is counted."""

import json
import math

import numpy as np
import pytest

import dlrmjit
from dlrmjit.autograd.tape import Tape, Variable
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.ops import get_backend
from dlrmjit.ops.partial_sums import (
    KINDS,
    columns_of,
    exact_sums,
    from_exact,
    partial_sums,
    vector_gradients,
)
from dlrmjit.parallel.exchanges.choice import (
    bytes_per_sample,
    proposed_with_exchange,
    sum_bytes,
    vector_bytes,
    with_exchange,
)
from dlrmjit.parallel.exchanges.sums import check_single_lookups, operators
from dlrmjit.parallel.plan import Placement, Plan, plan_from_dict
from dlrmjit.parallel.planner import propose
from tests.builders import family, random_batch
from tests.parallel.launch import needs_mpi, run_program, run_ranks

ROWS = (40,) * 26


def whole(model, ranks):
    specs = model.table_specs
    sizes = [spec.rows for spec in specs], [spec.dim for spec in specs]
    return propose(*sizes, ranks, kind="whole")


@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "backend"), [(1, "jit"), (2, "jit"), (3, "jit"), (2, "reference")]
)
def test_losses_are_those_of_one_process_and_bytes_those_of_the_formula(ranks, backend):
    cases = run_program(ranks, "substitution", 4, backend)
    assert {name.partition("/")[0] for name in cases} == {"lr", "fm", "deepfm", "wide-deep", "nfm"}
    for name, case in cases.items():
        np.testing.assert_allclose(case["ranks"], case["one"], rtol=4e-7, err_msg=name)
        assert case["sent"] == pytest.approx(case["formula"]), name
        assert bool(case["nodes"]) == (ranks > 1), name


@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("kind", ["fm", "bi_interaction"])
def test_results_and_gradients_from_sums_are_those_from_vectors(kind, backend):
    backend, rng = get_backend(backend), np.random.default_rng(0)
    vectors = rng.standard_normal((5, 4, 6)).astype(backend.dtype)
    upstream = rng.standard_normal((5, 1 if kind == "fm" else 6)).astype(backend.dtype)
    totals = partial_sums(vectors[:, :1], kind) + partial_sums(vectors[:, 1:], kind)

    def result_and_gradient(rule, x):
        tape, variable = Tape(), Variable(x, requires_grad=True)
        result = tape.record(backend.rules[rule], variable)
        tape.forward()
        gradients = dict(tape.backward(result, backend.matrix(upstream)))
        gradient = gradients[variable]
        value = gradient if isinstance(gradient, np.ndarray) else backend.to_numpy(gradient)
        return backend.to_numpy(result.data), value.copy()

    direct, gradient = result_and_gradient(kind, vectors)
    from_totals, of_totals = result_and_gradient(f"{kind}_of_totals", totals)
    np.testing.assert_allclose(from_totals, direct, rtol=1e-5, atol=1e-5)
    packed = np.concatenate([totals[:, :6], of_totals[:, 6:]], axis=1)
    np.testing.assert_allclose(vector_gradients(packed, vectors, kind), gradient, atol=1e-5)
    np.testing.assert_allclose(of_totals[:, :6], of_totals[:, 6:] * totals[:, :6], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_are_those_of_the_sums(kind):
    assert partial_sums(np.ones((3, 2, 5)), kind).shape == (3, columns_of(kind, 5))


@pytest.mark.parametrize(("ranks", "saved"), [(2, 0.92), (4, 0.84), (8, 0.69), (16, 0.38)])
def test_a_factorisation_machine_sends_less_by_the_ratio_of_ranks_to_tables(ranks, saved):
    model = family("fm", table_rows=ROWS, embedding_dim=16)
    plan, nodes = whole(model, ranks), ["wide", "emb_l"]
    vectors, sums = vector_bytes(model, plan, nodes), sum_bytes(model, plan, nodes)
    assert vectors == pytest.approx(8 * 26 * 17 * (ranks - 1) / ranks**2)
    assert sums == pytest.approx(8 * 17 * (ranks - 1) / ranks)
    assert math.floor(100 * (1 - sums / vectors)) / 100 == saved


@pytest.mark.parametrize("ranks", [2, 4, 8, 32])
@pytest.mark.parametrize("tables", [1, 3, 8, 26, 60])
@pytest.mark.parametrize("name", ["lr", "fm", "nfm", "deepfm"])
def test_auto_chooses_what_takes_fewer_bytes(tables, ranks, name):
    model = family(name, table_rows=(40,) * tables, embedding_dim=16)
    plan = whole(model, ranks)
    ways = [with_exchange(plan, model, way) for way in ("alltoall", "substitute", "auto")]
    alltoall, substitute, auto = (bytes_per_sample(model, way) for way in ways)
    assert auto <= min(alltoall, substitute)
    if name == "fm":
        assert bool(ways[2].substituted) == (ranks < tables)


def test_tables_are_not_replicated_where_sums_are_exchanged_for_fewer_bytes():
    def proposed(model):
        specs = model.table_specs
        sizes = [spec.rows for spec in specs], [spec.dim for spec in specs]
        return lambda replicates: propose(*sizes, 2, replicates=replicates)

    for name, exchange, samples, is_replicated in (
        ("fm", "auto", 2048, False),
        ("fm", "substitute", 2048, False),
        ("fm", "alltoall", 2048, True),
        ("fm", "auto", 2048 * 100, True),  # a batch much larger than the tables
        ("dlrm", "auto", 2048, True),
    ):
        model = family(name, table_rows=(1500,) * 26)
        plan = proposed_with_exchange(proposed(model), model, exchange, samples)
        assert bool(plan.replicated) == is_replicated, (name, exchange, samples)


def test_dot_products_need_vectors():
    model = family("dlrm", table_rows=ROWS)
    plan = whole(model, 2)
    assert with_exchange(plan, model, "auto").substituted == ()
    with pytest.raises(ConfigError, match="needs a model that only sums vectors"):
        with_exchange(plan, model, "substitute")
    with pytest.raises(ConfigError, match="unknown exchange 'ring'"):
        with_exchange(plan, model, "ring")


def test_tables_split_by_columns_exchange_their_vectors():
    model = family("lr", table_rows=ROWS)
    specs = model.table_specs
    everyone = (Placement("columns", (0, 1)),) * len(specs)
    plan = Plan(tuple(s.rows for s in specs), 1, 2, everyone)
    assert with_exchange(plan, model, "auto").substituted == ()


def test_a_plan_says_of_which_nodes_sums_are_exchanged():
    model = family("fm", table_rows=(40, 50, 60))
    plan = with_exchange(whole(model, 2), model, "auto")
    assert plan.substituted == ("wide", "emb_l")
    assert "exchange of wide: sums instead of vectors" in str(plan)
    text = json.loads(json.dumps(plan.to_dict()))
    assert plan_from_dict(text, plan.table_rows, plan.dims) == plan
    assert plan.fold(1).substituted == plan.substituted
    with pytest.raises(ConfigError, match="another form"):
        plan_from_dict({**text, "exchange": {"wide": "ring"}}, plan.table_rows, plan.dims)


def test_bags_of_several_rows_on_several_ranks_are_refused_where_pairs_are_multiplied():
    model = family("fm", table_rows=(40, 50))
    specs = model.table_specs
    rows = (Placement("rows", (0, 1)),) * len(specs)
    plan = Plan(tuple(s.rows for s in specs), tuple(s.dim for s in specs), 2, rows)
    assert with_exchange(plan, model, "auto").substituted == ("wide",)
    found = {operator.node: operator for operator in operators(model, ("wide", "emb_l"))}
    batch = random_batch(np.random.default_rng(0), model, 50)
    with pytest.raises(DataError, match=r"sample \d+ looks up \d rows of emb_l.0.weight"):
        check_single_lookups(model, plan, found, batch)


@needs_mpi
def test_the_command_line_trains_the_same_and_says_what_was_sent(tmp_path):
    words = [
        *("-m", "dlrmjit.train", "--model=fm", "--arch-embedding-size=50-60-70-80"),
        *("--arch-sparse-feature-size=8", "--data-size=200", "--mini-batch-size=20"),
        *("--num-indices-per-lookup=2", "--loss-function=bce", "--round-targets=True"),
        *("--plan=whole", "--learning-rate=0.1"),
    ]
    losses, sent = {}, {}
    for way in ("alltoall", "substitute", "auto"):
        log = tmp_path / f"{way}.jsonl"
        done = run_ranks(2, *words, f"--exchange={way}", f"--log-json={log}")
        assert "Sent per step by the first rank, in kB:" in done.stdout
        events = [json.loads(line) for line in log.read_text().splitlines()]
        losses[way] = [event["loss"] for event in events if event["event"] == "step"]
        sent[way] = events[-1]["sent_bytes"]
    np.testing.assert_allclose(losses["substitute"], losses["alltoall"], rtol=1e-6)
    assert losses["auto"] == losses["substitute"]
    assert "alltoall" not in sent["substitute"] or not sent["substitute"]["alltoall"]
    # 200 samples, of which a rank has half, there and back
    assert sent["substitute"]["reduce_scatter"] == sent["substitute"]["allgather"] == 4 * 9 * 100
    assert sent["alltoall"]["alltoall"] == 2 * 4 * 2 * 9 * 100
    bits = []
    for ranks in (1, 2):
        saved = tmp_path / str(ranks)
        how = "--exchange=substitute", "--reproducible=2", f"--save-model={saved}"
        done = run_ranks(ranks, *words, *how)
        bits.append(b"".join(v.tobytes() for v in dlrmjit.load(saved).state_dict().values()))
    assert bits[0] == bits[1]


@needs_mpi
def test_sums_of_reproducible_steps_have_the_same_bits_on_any_ranks():
    found = {ranks: run_program(ranks, "substitution", 3, "exact") for ranks in (1, 2, 3)}
    for name, case in found[1].items():
        np.testing.assert_allclose(case["ranks"], case["one"], rtol=1e-6, err_msg=name)
        for ranks in (2, 3):
            other = found[ranks][name]
            assert other["ranks"] == case["ranks"], f"{name} on {ranks} ranks"
            assert other["bits"] == case["bits"], f"{name} on {ranks} ranks"
            assert other["nodes"] == case["nodes"] != []


def test_exact_sums_do_not_depend_on_the_order_and_mark_what_they_cannot_add():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((7, 9, 5)) * 10.0 ** rng.integers(-6, 6, (7, 9, 1))).astype(
        np.float32
    )
    for kind in KINDS:
        whole = exact_sums(vectors, kind)
        parts = exact_sums(vectors[:, 5:][:, ::-1], kind) + exact_sums(vectors[:, :5], kind)
        np.testing.assert_array_equal(whole, parts)
    sums = from_exact(exact_sums(vectors, "sum"), np.float64)
    np.testing.assert_allclose(sums, vectors.sum(axis=1, dtype=np.float64), atol=9 * 2**-41)
    for bad in (np.nan, np.inf, 2.0**22):
        vectors[3, 2, 1] = bad
        marked = np.isnan(from_exact(exact_sums(vectors, "sum"), np.float32)).any(axis=1)
        assert marked.tolist() == [n == 3 for n in range(7)]
