"""Flags of the commands other than ``train`` and ``prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.cli.options.domain import POSITIVE, at_least, between
from dlrmjit.cli.options.flag import Command, Condition, Flag, FlagGroup
from dlrmjit.cli.options.insight_flags import ADVICE
from dlrmjit.cli.options.kinds import PLANS, column, dashed_ints, names, switch
from dlrmjit.config.model import Bounds
from dlrmjit.config.presets import PRESETS

_MODEL = Flag(
    "model",
    Path,
    None,
    "a saved model: a directory, or the reference's .pt",
    is_operand=True,
    is_required=True,
)
_VOCABULARY = Flag(
    "vocabulary",
    Path,
    None,
    "the prepared set that the model was trained on, for a .pt and for models saved by earlier "
    "versions; others have its vocabularies",
    metavar="DIR",
)
_THREADS = Flag(
    "threads", int, None, "threads to compute with (default: all CPUs)", domain=at_least(1)
)
INTERACTION = (
    Flag(
        "arch-interaction-op",
        str,
        None,
        "how the features of a .pt model interact, where its shapes allow both (default: dot)",
        values=("dot", "cat"),
    ),
    Flag(
        "arch-interaction-itself",
        switch,
        False,
        "each feature of a .pt model also interacts with itself, where its shapes allow both",
    ),
)

SCORING = FlagGroup(
    "model and data",
    (
        _MODEL,
        Flag(
            "data",
            Path,
            None,
            "text or Parquet in the format that the model was trained on, a prepared set, or an "
            "MLPerf .bin file",
            is_operand=True,
            is_required=True,
        ),
        Flag(
            "split",
            str,
            "test",
            "rows of a prepared set to read",
            values=("train", "test", "validation"),
        ),
        _VOCABULARY,
        Flag("batch-size", int, 4096, "rows of a batch", domain=at_least(1)),
        Flag("max-ind-range", int, 0, "take ids modulo this, as in training (0: do not)"),
        _THREADS,
        Flag(
            "backend",
            str,
            None,
            "compiled kernels, or NumPy alone (default: jit)",
            values=("jit", "reference"),
        ),
        Flag(
            "embedding-dir",
            str,
            None,
            "store the model's tables in files in this directory",
            metavar="DIR",
        ),
        Flag(
            "bounds",
            str,
            "raise",
            "what to do with ids outside the model's tables: refuse the data, use the nearest "
            "row, or ignore the lookup",
            values=get_args(Bounds),
        ),
        *INTERACTION,
    ),
)


def _has_ids(path: Path) -> bool:
    """Return whether data are a prepared set or a ``.bin``, which have ids, and not raw rows."""
    return path.is_dir() or path.suffix == ".bin"


_OF_DATA = (
    Condition(("split",), "a prepared set as DATA", lambda o: not o.data.is_file()),
    Condition(
        ("vocabulary",),
        "text or Parquet, whose values have no ids yet",
        lambda o: not _has_ids(o.data),
    ),
)

EVALUATE = Command(
    "evaluate",
    "Print the metrics of a saved model on labelled data.",
    (
        SCORING,
        FlagGroup(
            "output",
            (
                Flag(
                    "lists",
                    column,
                    None,
                    "also print ranking metrics, in which the rows with one value in this column "
                    "of the data, such as a query or a user, are a list",
                    metavar="COLUMN",
                ),
                Flag(
                    "ndcg-at",
                    dashed_ints,
                    None,
                    "positions k of NDCG@k with --lists (default: 1-5-10)",
                    domain=at_least(1),
                ),
                Flag("json", switch, False, "print one JSON object instead"),
            ),
        ),
    ),
    _OF_DATA,
)

PREDICT = Command(
    "predict",
    "Write the predicted probability of each row of data, which needs no labels. Values that the "
    "model's vocabularies lack are scored as unknown, and counted.",
    (
        SCORING,
        FlagGroup(
            "output",
            (
                Flag(
                    "key",
                    names,
                    (),
                    "columns of the data to write next to the scores, such as the id of a row, "
                    "with commas between them (default: the number of the row)",
                    metavar="COLUMN",
                ),
                Flag(
                    "lists",
                    column,
                    None,
                    "also write each row's rank, from 1 for the highest score, among the rows with "
                    "the same value in this column of the data, which is written too",
                    metavar="COLUMN",
                ),
                Flag(
                    "out",
                    Path,
                    None,
                    "the scores, as .csv, .npy or .parquet",
                    metavar="FILE",
                    is_required=True,
                ),
            ),
        ),
    ),
    _OF_DATA,
)

EXPORT_EMBEDDINGS = Command(
    "export_embeddings",
    "Write NAME.npy (rows, E) for each table, and NAME.values.csv (for Criteo's hashes .npy), the "
    "raw value that each row stands for, if the model or --vocabulary has them. A table of width "
    "d < E comes with NAME.projection.npy (E, d): multiply its rows by the transpose for vectors "
    "of width E.",
    (
        FlagGroup(
            "model and files",
            (
                _MODEL,
                Flag("out", Path, None, "a new directory", metavar="DIR", is_required=True),
                _VOCABULARY,
                *INTERACTION,
            ),
        ),
    ),
)

CONVERT = Command(
    "convert",
    "Convert data. SOURCE: a prepared set, NAME_train.bin (with its _test and _val), the raw file "
    "or prefix that the reference's files of days are named after, a folder of TorchRec days, or "
    "Criteo text. OUT: for set a new directory; for bin the name before _train.bin; for days the "
    "name before _0_reordered.npz; for torchrec (of text) and multi-hot (of a set) a folder.",
    (
        FlagGroup(
            "data",
            (
                Flag("source", Path, None, "what to read", is_operand=True, is_required=True),
                Flag("out", Path, None, "what to write", is_operand=True, is_required=True),
                Flag(
                    "to",
                    str,
                    None,
                    "format of the output",
                    values=("set", "bin", "days", "torchrec", "multi-hot"),
                    is_required=True,
                ),
                Flag(
                    "data-set",
                    str,
                    "kaggle",
                    "how the reference names its files of days",
                    values=("kaggle", "terabyte"),
                ),
            ),
        ),
    ),
    (
        Condition(
            ("data_set",),
            "files of days, as SOURCE or as OUT",
            lambda o: o.to == "days" or (o.to in ("set", "bin") and not _has_ids(o.source)),
        ),
    ),
)

PLAN = Command(
    "plan",
    "Propose how to shard the tables of a model over many ranks; allocates nothing. With --advise, "
    "choose how to train it: batch, ranks, threads, placement, communication, precision.",
    (
        FlagGroup(
            "model and ranks",
            (
                Flag("config", str, None, "a named model", values=tuple(PRESETS), is_required=True),
                Flag(
                    "ranks",
                    int,
                    None,
                    "number of ranks; with --advise the most to consider",
                    domain=between(1, 65536),
                    is_required=True,
                ),
                Flag(
                    "memory",
                    float,
                    None,
                    "memory of each rank for tables in GiB (default: unlimited); with --advise for "
                    "everything (default: what this machine has)",
                    domain=POSITIVE,
                    metavar="GIB",
                ),
                Flag(
                    "kind",
                    str,
                    "auto",
                    "one way to shard all tables, or auto to choose for each",
                    values=PLANS,
                ),
                Flag("max-ind-range", int, 0, "limit the rows of every table (0: do not)"),
                Flag(
                    "model",
                    str,
                    None,
                    "family of the model (default: the configuration's)",
                    values=tuple(FAMILIES),
                ),
                Flag(
                    "exchange",
                    str,
                    "auto",
                    "what ranks exchange of embeddings, as in dlrmjit train",
                    values=("auto", "alltoall", "substitute"),
                ),
                Flag(
                    "json",
                    str,
                    None,
                    "also write the plan to this file, for --plan of dlrmjit train",
                    metavar="FILE",
                ),
            ),
        ),
        ADVICE,
    ),
    (
        Condition(("kind", "model", "exchange"), "a plan without --advise", lambda o: not o.advise),
        Condition(
            tuple(flag.dest for flag in ADVICE.flags if flag.dest != "batch_size"),
            "--advise",
            lambda o: o.advise,
        ),
    ),
)

TUNE = Command(
    "tune",
    "Measure cache blockings of the matrix products of a model on this machine, and save the "
    "fastest in the cache folder, where later runs find them. They are safe to delete.",
    (
        FlagGroup(
            "model and machine",
            (
                Flag("config", str, "small", "a named model", values=tuple(PRESETS)),
                Flag(
                    "batch-size",
                    int,
                    None,
                    "samples of a batch (default: the configuration's)",
                    domain=at_least(1),
                ),
                _THREADS,
                Flag(
                    "seconds",
                    float,
                    2.0,
                    "time to spend on each product, in seconds",
                    domain=POSITIVE,
                ),
                Flag(
                    "repeats",
                    int,
                    3,
                    "measurements that share this time; their differences are the noise, within "
                    "which nothing counts as faster, and with more than 10 % of which nothing is "
                    "stored",
                    domain=between(2, 100),
                ),
            ),
        ),
        FlagGroup(
            "what is stored",
            (
                Flag("dry-run", switch, False, "measure, and store nothing"),
                Flag("list", switch, False, "print the stored winners, and measure nothing"),
                Flag("clear", switch, False, "remove the stored winners, and measure nothing"),
            ),
        ),
    ),
    (
        Condition(
            ("config", "batch_size", "threads", "seconds", "repeats"),
            "a measurement, without --list or --clear",
            lambda o: not (o.list or o.clear),
        ),
    ),
)
