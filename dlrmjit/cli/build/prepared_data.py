"""Data prepared before the run: which files, in which order, in which batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlrmjit.cli.build.set_defaults import training_rows
from dlrmjit.cli.options.parse import Options
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.formats.dlrm_days import has_days, read_days
from dlrmjit.data.formats.mlperf_bin import open_bin, read_counts
from dlrmjit.data.source import Source, take
from dlrmjit.errors import ConfigError

if TYPE_CHECKING:
    from dlrmjit.data.loader import Shuffle


@dataclass(frozen=True)
class StoredSplits:
    """The rows to train on and to test on.

    Unless ``test_is_final``, tests choose the parameters, and ``final`` is reported on at the end.
    """

    train: Dataset
    test: Dataset
    final: Dataset | None = None
    test_is_final: bool = True


def find_stored(options: Options) -> StoredSplits | None:
    """Return the prepared data that the options name, or None for text or a single ``.npz``.

    Raises DataError for data that are incomplete, ConfigError for options that contradict them.
    """
    splits = _find(options)
    if options.test_split != "test" and not _is_prepared(options):
        raise ConfigError(
            "--test-split=validation needs a prepared set as --processed-data-file=DIR"
        )
    if splits is not None and options.train_fraction is not None:
        raise ConfigError(
            "--train-fraction splits text; prepared data are split already: prepare them with "
            "--split fraction"
        )
    return splits


def _find(options: Options) -> StoredSplits | None:
    processed = options.processed_data_file
    if options.mlperf_bin_loader:
        return _bin(options)
    if options.memory_map and has_days(Path(options.raw_data_file), options.data_set == "kaggle"):
        return _days(options)
    if processed and Path(processed).is_dir():
        return _of_set(processed, options) if options.set else _prepared(processed, options)
    return None


def _is_prepared(options: Options) -> bool:
    processed = options.processed_data_file
    return not options.mlperf_bin_loader and bool(processed) and Path(processed).is_dir()


def _of_set(path: str, options: Options) -> StoredSplits:
    """Return the splits of ``train SET``: validation rows choose, test rows are reported on.

    Without validation rows, the last of the training rows are taken for them.
    """
    from dlrmjit.data.prepared.reader import PreparedSet

    prepared = PreparedSet(path)
    splits, train = prepared.manifest.splits, prepared.dataset("train")
    final = prepared.dataset("test") if splits.get("test") else None
    if options.inference_only or "test_split" in options.given:
        return _prepared(path, options)
    if splits.get("validation"):
        return StoredSplits(train, prepared.dataset("validation"), final, False)
    cut = train.start_of_list(training_rows(prepared.manifest)) or len(train)
    return StoredSplits(train.cut(0, cut), train.cut(cut, len(train)), final, False)


def _prepared(path: str, options: Options) -> StoredSplits:
    from dlrmjit.data.prepared.reader import PreparedSet

    prepared, test = PreparedSet(path), options.test_split
    if test == "test" and test not in prepared.manifest.splits:
        train = prepared.dataset("train")
        return StoredSplits(train, train.cut(0, 0))
    return StoredSplits(prepared.dataset("train"), prepared.dataset(test))


def _bin(options: Options) -> StoredSplits:
    """Open ``NAME_train.bin`` and ``NAME_test.bin`` for --processed-data-file=NAME.npz."""
    if not (options.processed_data_file and options.raw_data_file):
        raise ConfigError(
            "--mlperf-bin-loader needs --processed-data-file=DIR/NAME.npz to find NAME_train.bin "
            "and NAME_test.bin in DIR, and --raw-data-file=DIR/day to find day_fea_count.npz"
        )
    name = Path(options.processed_data_file)
    stem = name.with_name(name.name.split(".")[0])
    rows = read_counts(Path(f"{options.raw_data_file}_fea_count.npz"))
    return StoredSplits(
        open_bin(stem.with_name(f"{stem.name}_train.bin"), rows),
        open_bin(stem.with_name(f"{stem.name}_test.bin"), rows),
    )


def _days(options: Options) -> StoredSplits:
    """Read the reference's memory-map set: one ``_reordered.npz`` per day."""
    return StoredSplits(
        *read_days(Path(options.raw_data_file), kaggle=options.data_set == "kaggle")
    )


def stored_sources(
    splits: StoredSplits, options: Options, test_size: int
) -> tuple[Source, Source, Source | None, bool]:
    """Return the fields of a :class:`Data`.

    Stored data are shuffled already, so they are read in their order unless
    ``--data-randomize`` was given: ``total`` shuffles all rows each epoch, ``day`` blocks of
    neighbouring ones. ``--mlperf-bin-shuffle`` shuffles whole batches, as the reference does.
    """
    from dlrmjit.data.loader import Loader

    size, limit = options.mini_batch_size, options.num_batches

    def checked(rows: Dataset) -> Dataset:
        return replace(rows.limited(options.max_ind_range), bounds=options.bounds)

    train, test, final = checked(splits.train), checked(splits.test), splits.final
    shuffle, block = _shuffle(options)
    return (
        take(
            Loader(train, size, shuffle=shuffle, block_rows=block, seed=options.numpy_rand_seed),
            limit,
        ),
        take(Loader(test, test_size), limit),
        None if final is None else Loader(checked(final), test_size),
        splits.test_is_final,
    )


def _shuffle(options: Options) -> tuple[Shuffle, int]:
    if options.mlperf_bin_shuffle:
        return "block", int(options.mini_batch_size)
    is_asked = options.set or "data_randomize" in options.given
    asked = options.data_randomize if is_asked else "none"
    names: dict[str, Shuffle] = {"total": "total", "day": "block", "none": "none"}
    return names[asked], 1 << 16
