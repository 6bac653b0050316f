"""The options of a command line: defaults, presets, notes and refusals."""

from __future__ import annotations

import pytest

from dlrmjit.cli.build.configs import train_config, update_config
from dlrmjit.cli.options.parse import parse
from dlrmjit.config.presets import PRESETS
from dlrmjit.config.training import PlateauConfig
from dlrmjit.errors import ConfigError


def test_no_option_is_the_demo() -> None:
    options = parse([])
    assert options.data_generation == "synthetic"
    assert options.arch_embedding_size == PRESETS["demo"].model.table_rows
    assert options.loss_function == "bce"


def test_own_options_alone_are_the_demo_too() -> None:
    assert parse(["--threads=1", "--log-json=x"]).data_generation == "synthetic"


def test_any_option_of_the_reference_brings_its_defaults() -> None:
    options = parse(["--mini-batch-size=2", "--data-size=5"])
    assert options.data_generation == "random"
    assert options.arch_embedding_size == (4, 3, 2)
    assert options.loss_function == "mse"
    assert options.base is None
    assert options.given == {"mini_batch_size", "data_size"}


def test_synthetic_data_without_a_model_come_with_the_demos() -> None:
    options = parse(["--data-generation=synthetic", "--mini-batch-size=64"])
    assert options.arch_mlp_bot == PRESETS["demo"].model.mlp_bottom
    assert options.mini_batch_size == 64


def test_a_preset_gives_defaults_and_explicit_options_win() -> None:
    options = parse(["--config=small", "--mini-batch-size=32", "--arch-mlp-top=8-1"])
    assert options.arch_sparse_feature_size == 64
    assert options.arch_mlp_top == (8, 1)
    assert options.mini_batch_size == 32
    assert options.num_indices_per_lookup == 50
    assert options.data_size == 100 * 32
    assert options.data_generation == "random"


def test_a_preset_may_be_of_another_family() -> None:
    options = parse(["--config=mlperf-v2"])
    assert (options.model, options.optimizer, options.dcn_low_rank_dim) == ("dcnv2", "adagrad", 512)
    assert sum(options.lookups_per_table) == 214
    fewer = parse(["--config=mlperf-v2", "--num-indices-per-lookup=3", "--model=dlrm"])
    assert (fewer.model, fewer.lookups_per_table) == ("dlrm", (3,) * 26)


def test_multi_hot_sizes_and_other_lookups_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--multi-hot-sizes or --num-indices-per-lookup, not bot"):
        parse(["--multi-hot-sizes=3-2-1", "--num-indices-per-lookup=3"])


@pytest.mark.parametrize("words", ["--qr-flag --md-flag", "--weighted-pooling=fixed --qr-flag"])
def test_tables_are_of_one_kind(words: str) -> None:
    with pytest.raises(ConfigError, match="not both: tables are of one kind"):
        parse(words.split())


def test_max_ind_range_cuts_a_presets_tables() -> None:
    options = parse(["--config=kaggle", "--max-ind-range=1000"])
    assert max(options.arch_embedding_size) == 1000
    assert min(options.arch_embedding_size) == min(PRESETS["kaggle"].model.table_rows)


def test_abbreviations_and_negative_numbers() -> None:
    options = parse(["--mini=7", "--inf", "--rand-data-mu", "-1", "--test-freq", "-1"])
    assert (options.mini_batch_size, options.inference_only) == (7, True)
    assert options.rand_data_mu == -1.0


def test_false_means_false() -> None:
    assert parse(["--round-targets=False"]).round_targets is False
    assert parse(["--round-targets", "True"]).round_targets is True


def test_options_without_effect_are_noted_once_each() -> None:
    notes = parse(["--bf16", "--num-workers=4", "--sync-dense-params=False"]).notes
    assert len(notes) == 3
    assert all("has no effect here" in note for note in notes)


WRONG = {
    "--use-gpu": "CPUs",
    "--optimizer=lion": "must be one of sgd, adagrad, rwsadagrad, adam",
    "--sparse-optimizer=lion": "must be one of sgd, adagrad, rwsadagrad, adam",
    "--momentum=-1": "at least 0",
    "--precision=fp16": "must be one of fp32, bf16",
    "--qr-operation=sub": "must be one of mult, add, concat",
    "--qr-collisions=0": "at least 1",
    "--pooling=max": "must be one of sum, mean",
    "--save-onnx": "--save-model",
    "--quantize-mlp-with-bit=8": "32 bits",
    "--quantize-emb-with-bit=4": "32 bits",
    "--weighted-pooling=trained": "must be one of fixed, learned",
    "--mlperf-grad-accum-iter=0": "at least 1",
    "--multi-hot-sizes=3-2": "--multi-hot-sizes has 2 numbers for 26 tables",
    "--multi-hot-sizes=3-0-2": "at least 1, not 0",
    "--data-generation=internal": "never published",
    "--data-generation=foo": "must be one of random",
    "--data-generation=dataset": "--raw-data-file",
    "--loss-function=hinge": "must be one of mse",
    "--loss-weights=1": "two numbers",
    "--mini-batch-size=0": "at least 1",
    "--mini-batch-size=-3": "at least 1",
    "--mini-batch-size=big": "invalid int",
    "--learning-rate=nan": "at least 0",
    "--print-freq=0": "at least 1",
    "--threads=0": "at least 1",
    "--train-fraction=1.5": "between 0 and 1",
    "--train-fraction=1": "between 0 and 1, both excluded",
    "--learning-rate=inf": "must be finite",
    "--rand-data-min=nan": "must be finite",
    "--dropout=1": "below 1",
    "--arch-mlp-top=8-0-1": "--arch-mlp-top must be at least 1, not 0",
    "--numpy-rand-seed=4294967296": "between 0 and 4294967295",
    "--arch-mlp-bot=4-": "dash-separated",
    "--config=huge": "must be one of small, large, mlperf",
    "--mini-batchsize=3": "did you mean --mini-batch-size?",
    "--zzz": "unknown option",
    "--data=3": "ambiguous",
}


@pytest.mark.parametrize(("word", "hint"), WRONG.items(), ids=list(WRONG))
def test_wrong_options_are_refused_with_a_way_out(word: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([word])
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["--resume=a"], ["--linear-start"]])
def test_two_starts_contradict_each_other(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="not both"):
        parse([*words, "--load-model=b"])


@pytest.mark.parametrize("word", ["--weighted-pooling=fixed", "--quantize-mlp-with-bit=32"])
def test_values_that_ask_for_nothing_special_are_accepted(word: str) -> None:
    assert parse([word]).notes == ()


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--arch-mlp-bot" in text
    assert "--log-json" in text


def test_tables_may_have_another_weight_decay() -> None:
    both = update_config(parse(["--optimizer=adam", "--weight-decay=0.5"]))
    assert (both.mlps.weight_decay, both.tables.weight_decay) == (0.5, 0.5)
    tables = update_config(parse(["--optimizer=adam", "--sparse-weight-decay=0.1"]))
    assert (tables.mlps.weight_decay, tables.tables.weight_decay) == (0.0, 0.1)


def test_plateaus_have_default_and_given_limits() -> None:
    common = ["--test-freq=1", "--reduce-on-plateau=0.1"]
    assert train_config(parse(common)).plateau == PlateauConfig(0.1, 10, 1e-4)
    given = parse([*common, "--plateau-patience=0", "--plateau-threshold=1e-6"])
    assert train_config(given).plateau == PlateauConfig(0.1, 0, 1e-6)


@pytest.mark.parametrize("flag", ["--raw-data-file=t.txt", "--processed-data-file=p.npz"])
@pytest.mark.parametrize(
    "kind", [[], ["--data-generation=random"], ["--data-generation=synthetic"]]
)
def test_files_of_data_are_never_left_unused(flag: str, kind: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=f"{flag.split('=')[0]} names data, but .* generated data"
    ):
        parse([flag, *kind])


def test_a_plan_is_a_kind_or_a_file_also_for_one_process() -> None:
    for plan in ("auto", "rows", "plan.json"):
        assert parse([f"--plan={plan}"]).plan == plan
    with pytest.raises(ConfigError, match=r"--plan=/nonexistent found, expected auto, .*\.json"):
        parse(["--plan=/nonexistent"])
