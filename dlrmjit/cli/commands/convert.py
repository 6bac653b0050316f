"""The command ``convert``: data of one format into another."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import CONVERT
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.formats import dlrm_days, torchrec
from dlrmjit.data.formats.criteo_text import read_criteo_text
from dlrmjit.data.formats.dlrm_days import DayNames, read_days, write_days
from dlrmjit.data.formats.mlperf_bin import open_bin, read_counts, write_records
from dlrmjit.data.formats.torchrec import open_day, write_day, write_multi_hot_days
from dlrmjit.data.prepared.reader import PreparedSet, is_prepared_set
from dlrmjit.data.prepared.writer import days_of, dictionaries_of, write_set
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import NewFiles, check_all_new, check_new, make_output_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(CONVERT, argv)
    kaggle = arguments.data_set == "kaggle"
    source, out = arguments.source, arguments.out
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"the folder {out.absolute().parent} does not exist; create it")
    try:
        if arguments.to == "torchrec":
            _to_torchrec(source, out)
        elif arguments.to == "multi-hot":
            _to_multi_hot(PreparedSet(source), out)
        elif arguments.to == "days":
            _to_days(PreparedSet(source), DayNames(out, kaggle))
        elif arguments.to == "set":
            check_new(out)
            write_set(out, _splits(source, kaggle), f"converted from {source.name}")
        else:
            _to_bin(_splits(source, kaggle), out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from None
    print(f"{arguments.out}: written")


def _splits(source: Path, kaggle: bool) -> Mapping[str, Dataset]:
    """Tables of the splits of any source that has ids."""
    if is_prepared_set(source):
        prepared = PreparedSet(source)
        return {name: prepared.dataset(name) for name in prepared.manifest.splits}
    if source.suffix == ".bin":
        return _splits_of_bin(source)
    if source.is_dir():
        days = sorted(source.glob("day_*_labels.npy"), key=_day_number)
        return _splits_of_torchrec(source, [_day_number(path) for path in days])
    train, test = read_days(source, kaggle=kaggle)
    return {"train": train, "test": test}


def _splits_of_bin(source: Path) -> Mapping[str, Dataset]:
    """``NAME_train.bin`` and its neighbours, under the rows that all of them need."""
    stem = source.name.removesuffix("_train.bin")
    paths = {
        "train": source,
        "test": source.with_name(f"{stem}_test.bin"),
        "validation": source.with_name(f"{stem}_val.bin"),
    }
    found = {name: open_bin(path) for name, path in paths.items() if path.exists()}
    if not found:
        raise ConfigError(f"{source} does not exist")
    rows = np.max([table.table_rows for table in found.values()], axis=0).tolist()
    return {name: open_bin(paths[name], rows) for name in found}


def _splits_of_torchrec(folder: Path, days: Sequence[int]) -> Mapping[str, Dataset]:
    """Return a day to train on and a day in two parts, validation first, as in TorchRec."""
    if len(days) != 2:
        raise ConfigError(
            f"{folder} has {len(days)} of TorchRec's days, but only folders of two can be "
            "converted: one day to train on and one to test on"
        )
    train, last = open_day(folder, days[0]), open_day(folder, days[1])
    found = [(day.dense.shape[1], len(day.table_rows)) for day in (train, last)]
    if found[0] != found[1]:
        raise DataError(
            f"{train.origin} has {found[0][0]} dense and {found[0][1]} categorical columns, "
            f"{last.origin} {found[1][0]} and {found[1][1]}; both days must have the same"
        )
    rows = np.maximum(train.table_rows, last.table_rows).tolist()
    train, last = open_day(folder, days[0], rows), open_day(folder, days[1], rows)
    half = len(last) // 2
    return {"train": train, "validation": last.cut(0, half), "test": last.cut(half, len(last))}


def _day_number(path: Path) -> int:
    return int(path.name.split("_")[1])


def _to_bin(splits: Mapping[str, Dataset], out: Path) -> None:
    names = {"train": "train", "test": "test", "validation": "val"}
    outputs = {name: out.with_name(f"{out.name}_{names[name]}.bin") for name in splits}
    rows = np.array(next(iter(splits.values())).table_rows, np.int32)
    counts = out.with_name("day_fea_count.npz")
    check_all_new(list(outputs.values()))  # clears what a killed one left, counts among it
    has_counts = _has_counts(counts, rows.tolist())
    if not has_counts:
        check_new(counts)
    with NewFiles(out.parent, outputs[min(outputs)].name) as files:
        for name, dataset in splits.items():
            with files.open(outputs[name].name) as file:
                write_records(file, dataset)
        if not has_counts:
            with files.open(counts.name) as file:
                np.savez_compressed(file, counts=rows)


def _has_counts(path: Path, rows: list[int]) -> bool:
    """Return whether the file of counts is there already, with the same counts."""
    try:
        return path.is_file() and list(read_counts(path)) == rows
    except DataError:
        return False


def _to_days(prepared: PreparedSet, names: DayNames) -> None:
    days, dictionaries = days_of(prepared), dictionaries_of(prepared)
    check_all_new(dlrm_days.day_outputs(names, len(days), len(dictionaries)))
    write_days(names, days, dictionaries)


def _to_torchrec(source: Path, out: Path) -> None:
    """Write text as the arrays that TorchRec makes of it: raw hashes, shifted logarithms."""
    number = source.name.split(".")[0].rpartition("_")[2]
    day = int(number) if number.isdigit() else 0
    make_output_folder(out)
    check_all_new(torchrec.day_outputs(out, [day], "sparse.npy"))
    write_day(out, day, read_criteo_text(source))


def _to_multi_hot(prepared: PreparedSet, out: Path) -> None:
    """Write MLPerf version 2's days: one to train on, and one of validation, then test."""
    days = [prepared.dataset("train")]
    held = [name for name in ("validation", "test") if name in prepared.manifest.splits]
    if held:
        days.append(concatenate([prepared.dataset(name) for name in held]))
    make_output_folder(out)
    check_all_new(torchrec.day_outputs(out, range(len(days)), "sparse_multi_hot.npz"))
    write_multi_hot_days(out, days)
