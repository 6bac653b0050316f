"""Ranks that exchange a batch in parts, or BF16 numbers, train as one process does."""

import json

import numpy as np
import pytest

import dlrmjit
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from tests.builders import random_batch, small_config
from tests.parallel.launch import needs_mpi, run_program, run_ranks


@pytest.fixture(scope="module")
def found():
    return {ranks: run_program(ranks, "micro_batches", 4) for ranks in (1, 2, 3)}


@needs_mpi
def test_losses_in_parts_are_those_of_one_process(found):
    for ranks, cases in found.items():
        for name, case in cases["parts"].items():
            # the normalisation of a few samples amplifies rounding
            rtol = 2e-5 if "batch" in name or "dcn" in name else 1e-6
            for exchange in ("alltoall", "auto"):
                text = f"{name} by {exchange} on {ranks} ranks"
                np.testing.assert_allclose(case[exchange], case["one"], rtol=rtol, err_msg=text)


@needs_mpi
def test_bf16_takes_half_the_bytes_and_rounds_the_same_on_any_ranks(found):
    for ranks, cases in found.items():
        case = cases["bf16"]
        exact, rounded = case["fp32/1"], case["bf16/1"]
        assert exact["sent"] == case["fp32/3"]["sent"] == 2 * rounded["sent"]
        assert (rounded["sent"] > 0) == (ranks > 1)
        assert case["bf16/3"]["sent"] == rounded["sent"]
        assert rounded["losses"] != exact["losses"]
        np.testing.assert_allclose(rounded["losses"], exact["losses"], rtol=2**-8)
        first = found[1]["bf16"]["bf16/1"]["losses"]
        np.testing.assert_allclose(rounded["losses"][0], first[0], rtol=2**-8)
        for strategy in ("scatter", "scatter_list"):
            assert case[strategy] == rounded["losses"], strategy
        assert case["reproducible"] == found[1]["bf16"]["reproducible"]
        assert case["bits"] == found[1]["bf16"]["bits"]


def one_rank(**how):
    config = small_config()
    plan = propose(config.table_rows, config.embedding_dim, 1)
    return ShardedModel(config, SelfComm(), plan, backend="reference", **how)


def test_parts_of_lists_and_of_other_strategies_are_refused():
    with pytest.raises(ConfigError, match="would cut lists; leave out --micro-batches"):
        ShardedStep(one_rank(), loss=ListLoss("hinge"), parts=2)
    step = ShardedStep(one_rank(strategy="scatter"), parts=2)
    batch = random_batch(np.random.default_rng(0), small_config(), 8)
    with pytest.raises(ConfigError, match="2 micro-batches are exchanged by alltoall only"):
        step(batch, 0.1)
    with pytest.raises(ConfigError, match="precision must be one of fp32, bf16, not 'fp16'"):
        one_rank(comm_dtype="fp16")


WORDS = (
    *("-m", "dlrmjit.train", "--data-generation=random", "--mini-batch-size=24"),
    *("--arch-embedding-size=30-20-10", "--arch-sparse-feature-size=4", "--backend=reference"),
    *("--arch-mlp-bot=13-8-4", "--arch-mlp-top=8-1", "--num-batches=20", "--plan=whole"),
)


@needs_mpi
def test_the_command_line_sends_parts_in_bf16_and_refuses_what_has_no_effect(tmp_path):
    sent = {}
    for dtype in ("fp32", "bf16"):
        log = tmp_path / f"{dtype}.jsonl"
        run_ranks(2, *WORDS, f"--comm-dtype={dtype}", "--micro-batches=3", f"--log-json={log}")
        events = [json.loads(line) for line in log.read_text().splitlines()]
        sent[dtype] = events[-1]["sent_bytes"]["alltoall"]
    assert sent["fp32"] == 2 * sent["bf16"] > 0
    bits = []
    for ranks in (1, 2):
        saved = tmp_path / str(ranks)
        words = "--comm-dtype=bf16", "--reproducible=4", f"--save-model={saved}"
        run_ranks(ranks, *WORDS, *words)
        bits.append(b"".join(v.tobytes() for v in dlrmjit.load(saved).state_dict().values()))
    assert bits[0] == bits[1]


@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "words", "message"),
    [
        (1, ["--comm-dtype=bf16"], "but this is one process; leave it out"),
        (2, ["--comm-dtype=bf16", "--plan=replicated"], "but none are sent here"),
        (2, ["--comm-dtype=fp16"], "fp32, bf16"),
        (2, ["--micro-batches=0"], "micro-batches"),
        (2, ["--micro-batches=2", "--reproducible=2"], "--micro-batches has no effect here"),
    ],
)
def test_options_without_an_effect_are_refused(ranks, words, message):
    done = run_ranks(ranks, *WORDS, *words, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
