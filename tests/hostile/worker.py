"""A process that runs one command after the other and reports how each ended.

It reads a JSON line per case and answers with one: exit code, what was printed as an error, and
the traceback of an exception that is no answer of the command.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ["DLRMJIT_PIN"] = "0"


def read_vocabularies(argv: list[str]) -> int:
    """Read the vocabularies of a set, as ``predict`` and ``export_embeddings`` do."""
    from dlrmjit.cli.exit_codes import exit_code_of
    from dlrmjit.data.prepared.preprocessing import Preprocessing
    from dlrmjit.data.prepared.reader import PreparedSet
    from dlrmjit.errors import DataError

    def run() -> None:
        known = PreparedSet(argv[0])
        for column in range(len(known.manifest.categorical)):
            known.texts(column)
        rules = Preprocessing.of_set(known.folder, known.manifest)
        if rules is None:
            raise DataError(f"{known.folder} was not made of text, so it has no vocabularies")
        found = [index for index in rules.text_indexes if index is not None]
        assert len(found) <= len(known.manifest.categorical)

    return exit_code_of(run)


def read_batches(argv: list[str]) -> int:
    """Read all rows of a set through a loader, and save what a model would see."""
    import numpy as np

    from dlrmjit.cli.exit_codes import exit_code_of
    from dlrmjit.data.loader import Loader
    from dlrmjit.data.prepared.reader import PreparedSet
    from dlrmjit.data.validate import check_labels

    def run() -> None:
        dataset = PreparedSet(argv[0]).dataset("train")
        batches = list(Loader(dataset, 16, ahead=0).batches())
        for batch in batches:
            check_labels(batch.labels, dataset.origin, soft=dataset.soft_labels)
        np.savez(
            argv[1],
            labels=np.concatenate([b.labels for b in batches]),
            dense=np.concatenate([b.dense for b in batches]),
            lookups=np.concatenate([b.indices for b in batches]),
        )

    return exit_code_of(run)


def read_processed(argv: list[str]) -> int:
    """Read a processed set, and save its arrays."""
    import numpy as np

    from dlrmjit.cli.exit_codes import exit_code_of
    from dlrmjit.data.formats.dlrm_npz import read_processed as read

    def run() -> None:
        data = read(argv[0])
        np.savez(argv[1], y=data.labels, X_int=data.integers, X_cat=data.ids, counts=data.counts)

    return exit_code_of(run)


def fit_estimator(argv: list[str]) -> int:
    """Fit an estimator with odd arguments, and score its rows; errors are those of scikit-learn."""
    import numpy as np

    from dlrmjit.cli.exit_codes import exit_code_of
    from dlrmjit.errors import DataError, DlrmjitError
    from dlrmjit.sklearn import DLRMClassifier

    asked = json.loads(Path(argv[0]).read_text())
    X, y = estimator_data(asked)

    def run() -> None:
        given = {"hidden": [4], "max_epochs": 1, "embedding_dim": 2, **asked["parameters"]}
        try:
            scores = DLRMClassifier(**given).fit(X, y).predict_proba(X)
        except (ValueError, TypeError) as error:
            if isinstance(error, DlrmjitError) or len(str(error).splitlines()) > 8:
                raise
            raise DataError(str(error).splitlines()[0]) from None
        assert np.all((scores >= 0) & (scores <= 1)), "scores that are no probabilities"
        assert len(scores) == len(X), "another number of scores"

    return exit_code_of(run)


def estimator_data(asked: dict[str, Any]) -> tuple[Any, Any]:
    """Return the columns and labels that a case of the estimator names."""
    import numpy as np

    rng, n = np.random.default_rng(asked["seed"]), 40
    numbers, texts = rng.random((n, 2)), rng.choice(["a", "b", "c"], (n, 2))
    mixed = np.concatenate([numbers.astype(object), texts.astype(object)], axis=1)
    odd = numbers.copy()
    odd[3, 1] = {"nan": np.nan, "inf": np.inf, "huge": 1e300}.get(asked["columns"], 0.0)
    X = {
        "numbers": numbers,
        "texts": texts,
        "mixed": mixed,
        "one": numbers[:1],
        "objects": np.array([[{}, []]] * n, object),
        "empty": numbers[:, :0],
        "3-D": numbers[None],
    }.get(asked["columns"], odd)
    y = rng.integers(0, 2, n)
    return X, {
        "right": y[: len(X)],
        "one class": np.zeros(n),
        "three": rng.integers(0, 3, n),
        "texts": np.array(["no", "yes"])[y],
        "nan": np.where(y > 0, np.nan, 0.0),
        "short": y[:3],
        "floats": rng.random(n),
        "none": None,
    }[asked["labels"]]


def main_of(command: str) -> Any:
    """Return the function that runs a command."""
    own = {
        "vocabularies": read_vocabularies,
        "batches": read_batches,
        "processed": read_processed,
        "sklearn": fit_estimator,
    }
    if command in own:
        return own[command]
    room = {"report": "insight", "plot": "insight", "embed": "images"}.get(command, "commands")
    return importlib.import_module(f"dlrmjit.cli.{room}.{command}").main


def run(command: str, argv: list[str]) -> dict[str, Any]:
    """Return how a command ended."""
    error = io.StringIO()
    result: dict[str, Any] = {"code": None, "error": "", "traceback": ""}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", ResourceWarning)
                result["code"] = main_of(command)(argv)
        except SystemExit as ended:
            result["code"] = ended.code if isinstance(ended.code, int) else 2
        except BaseException:
            result["traceback"] = traceback.format_exc()[-3000:]
    result["error"] = error.getvalue()[-5000:]
    return result


def warm_up(sets: list[str]) -> dict[str, Any]:
    """Load the compiled kernels that cases use, which takes longer than any case."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, path in enumerate(sets):
            run("batches", [path, "x.npz"])
            run("convert", [path, f"copy{number}", "--to", "set"])
        train = "--arch-sparse-feature-size=2 --arch-embedding-size=4-3 --arch-mlp-bot=3-2"
        run("train", [*train.split(), "--arch-mlp-top=4-1", "--data-size=4", "--num-batches=2"])
        os.chdir("/")
    return {}


def serve() -> None:
    """Answer one case per line of the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints to the descriptor must not disturb the answers
    answers.write(json.dumps(warm_up(sys.argv[1:])) + "\n")
    answers.flush()
    for line in sys.stdin:
        case = json.loads(line)
        os.chdir(Path(case["folder"]))
        result = run(case["command"], case["argv"])
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
