"""The sources of batches to train and to test on, as the options describe them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlrmjit.architecture.dynamic_ids import rows_within
from dlrmjit.cli.build.architecture import column_names
from dlrmjit.cli.build.prepared_data import find_stored, stored_sources
from dlrmjit.cli.options.parse import Options
from dlrmjit.data.formats.criteo import (
    CriteoData,
    Split,
    load_criteo_text,
    split_by_days,
    split_by_fraction,
)
from dlrmjit.data.formats.dlrm_npz import (
    ProcessedSource,
    processed_source,
    read_day_counts,
    read_processed,
    write_processed,
)
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.data.generate.synthetic import SyntheticSource
from dlrmjit.data.schema_file import read_schema
from dlrmjit.data.source import Source, has_lists, take
from dlrmjit.errors import ConfigError
from dlrmjit.optim.column_rates import by_number

_TRAIN_PER_TEST = 8  # synthetic samples to train on for each to test on


@dataclass(frozen=True)
class Data:
    """The sources to train and to test on, with the same tables and dense features.

    Unless ``test_is_final``, tests choose the parameters, and ``final`` are rows to report on at
    the end, if there are any.
    """

    train: Source
    test: Source
    final: Source | None = None
    test_is_final: bool = True

    @property
    def final_or_test(self) -> Source | None:
        """The rows to report on at the end; None without rows that no test chooses by."""
        return self.test if self.test_is_final else self.final


def make_data(options: Options, rng: np.random.RandomState) -> Data:
    """Return the data that the options describe.

    ``rng`` is the random stream of the run. Random data and the shuffling of a data set draw
    from it before the model's parameters do, as in the reference. Raises ConfigError or
    DataError.
    """
    kinds = {"random": _random, "synthetic": _synthetic, "dataset": _dataset}
    return kinds[options.data_generation](options, rng)


def _random(options: Options, rng: np.random.RandomState) -> Data:
    """Return random batches; training and test share one stream, as in the reference."""
    return Data(_random_source(options, rng), _random_source(options, rng))


def _random_source(options: Options, rng: np.random.RandomState) -> RandomSource:
    return RandomSource(
        _dense_features(options),
        options.arch_embedding_size,
        options.mini_batch_size,
        data_size=options.data_size,
        num_batches=options.num_batches,
        options=RandomOptions(
            lookups=options.num_indices_per_lookup,
            fixed_lookups=options.num_indices_per_lookup_fixed,
            round_targets=options.round_targets,
            distribution=options.rand_data_dist,
            minimum=options.rand_data_min,
            maximum=options.rand_data_max,
            mu=options.rand_data_mu,
            sigma=options.rand_data_sigma,
            multi_hot_sizes=tuple(options.multi_hot_sizes),
        ),
        seed=options.numpy_rand_seed,
        rng=rng,
    )


def _dense_features(options: Options) -> int:
    """Return the number of dense columns to generate: the input width of the bottom MLP."""
    return int(options.arch_mlp_bot[0]) if options.arch_mlp_bot else 0


def _synthetic(options: Options, rng: np.random.RandomState) -> Data:
    size = options.mini_batch_size
    batches = options.num_batches or -(-options.data_size // size)
    test_samples = -(-batches * size // _TRAIN_PER_TEST)
    test_size = test_batch_size(options)
    return Data(
        _synthetic_source(options, "train", size, batches),
        _synthetic_source(options, "test", test_size, -(-test_samples // test_size)),
    )


def _synthetic_source(options: Options, split: str, size: int, batches: int) -> SyntheticSource:
    return SyntheticSource(
        size,
        batches,
        table_rows=options.arch_embedding_size,
        dense_features=_dense_features(options),
        lookups=options.lookups_per_table,
        split=split,
        seed=options.numpy_rand_seed,
    )


def _stream(options: Options) -> Data:
    """Return the rows of files without a set, whose ids are hashes."""
    from dlrmjit.data.prepared.stream import StreamSource, stream_rules

    schema = read_schema(Path(options.schema)) if options.schema else None
    rows = rows_within(options.dynamic_bytes, options.arch_sparse_feature_size)
    rules = stream_rules(schema, rows)
    files, tests = ([Path(p) for p in paths] for paths in (options.stream, options.stream_test))
    train = take(StreamSource(files, rules, options.mini_batch_size), options.num_batches)
    return Data(train, StreamSource(tests, rules, test_batch_size(options)))


def _dataset(options: Options, rng: np.random.RandomState) -> Data:
    if options.stream:
        return _stream(options)
    stored = find_stored(options)
    if stored is not None:
        return Data(*stored_sources(stored, options, test_batch_size(options)))
    if options.data_set == "terabyte":
        raise ConfigError(
            "the days of the Terabyte set are too large to be read as text for each run: make a "
            "set of them with dlrmjit prepare, then give it as --processed-data-file=DIR"
        )
    data = _criteo(options, rng)
    split = _split(data, options, rng)
    everything = data.source(options.mini_batch_size, max_ind_range=options.max_ind_range)
    train = everything.select(split.train)
    test = everything.select(split.test, test_batch_size(options))
    return Data(take(train, options.num_batches), take(test, options.num_batches))


def _criteo(options: Options, rng: np.random.RandomState) -> CriteoData:
    """Read the processed file if it exists, else the text, and write its processed form."""
    raw, processed = options.raw_data_file, options.processed_data_file
    if processed and (Path(processed).exists() or not raw):
        if raw:
            _check_source(Path(processed), Path(raw), options.max_ind_range)
        return read_processed(processed, read_day_counts(raw) if raw else None)
    data = load_criteo_text(
        raw,
        max_ind_range=options.max_ind_range,
        sub_sample_rate=options.data_sub_sample_rate,
        rng=rng,
    )
    if processed:
        source = ProcessedSource.of_text(Path(raw), options.max_ind_range)
        write_processed(processed, data, source)
    return data


def _check_source(processed: Path, raw: Path, max_ind_range: int) -> None:
    """Refuse a processed file of another text; note one whose values had another limit.

    The reference writes nothing to tell by, so a text that is newer than its file gets a note.
    """
    if not raw.is_file():
        return
    source = processed_source(processed)
    if source is None:
        if raw.stat().st_mtime_ns > processed.stat().st_mtime_ns:
            _note(f"{processed} is used; {raw}, which is newer, is not read")
        return
    now = ProcessedSource.of_text(raw, max_ind_range)
    if now.digest != source.digest:
        raise ConfigError(
            f"--processed-data-file: {processed} was made of another text than {raw} is now; "
            "remove it to make it again, or leave out --raw-data-file to use it"
        )
    if now.max_ind_range != source.max_ind_range:
        _note(
            f"{processed} was made with --max-ind-range={source.max_ind_range or -1}; its ids, not "
            f"the values of {raw}, are taken modulo {max_ind_range}, as by the reference"
            if max_ind_range > 0
            else f"{processed} was made with --max-ind-range={source.max_ind_range}, which applies"
        )


def _note(text: str) -> None:
    print(f"dlrmjit: note: {text}", file=sys.stderr)


def _split(data: CriteoData, options: Options, rng: np.random.RandomState) -> Split:
    """Split by days as the reference does, or at ``--train-fraction``."""
    if options.train_fraction is None:
        return split_by_days(data.day_counts, options.data_randomize, rng)
    split = split_by_fraction(len(data), options.train_fraction)
    if not split.train.size or not split.test.size:
        raise ConfigError(
            f"--train-fraction={options.train_fraction} of {len(data)} samples leaves none to "
            "train on or none to test on"
        )
    is_shuffled = options.data_randomize == "total"
    return replace(split, train=rng.permutation(split.train)) if is_shuffled else split


def check_lists(options: Options, data: Data) -> None:
    """Raise ConfigError if the options need lists, which the data have not, or cannot use them."""
    if options.linear_start and has_lists(data.train):
        raise ConfigError(
            "--linear-start solves for labels of single rows, but these data have lists; leave it "
            "out"
        )
    needs = {"--list-loss": options.list_loss, "--head": options.head}
    flag = next((name for name, value in needs.items() if value is not None), None)
    if flag is not None and not has_lists(data.train):
        raise ConfigError(
            f"{flag} is for rows of lists, which these data do not have; prepare a set whose "
            'schema names their column: lists = "query_id"'
        )


def check_column_rates(options: Options, data: Data) -> None:
    """Raise ConfigError if --table-learning-rate names a column that the data do not have."""
    names, count = column_names(data.train), len(data.train.table_rows)
    by_number(dict(options.table_learning_rate), names, count)


def test_batch_size(options: Options) -> int:
    """Return the samples of a test batch: ``--test-mini-batch-size``, else as in training."""
    size: int = options.test_mini_batch_size
    return size if size > 0 else int(options.mini_batch_size)
