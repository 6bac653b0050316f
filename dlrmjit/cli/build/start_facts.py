"""What every rank of a job must have in common, as short values that ranks compare at the start."""

from __future__ import annotations

from pathlib import Path

from dlrmjit import knobs
from dlrmjit.cli.build.data import Data
from dlrmjit.cli.build.facts import Facts, flag_of, identity, program_facts
from dlrmjit.cli.options.parse import Options
from dlrmjit.model.model import Model
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.training.events import RunState

_OF_ONE_RANK = {
    *("threads", "comm_cores", "log_json", "trace", "tensorboard", "metrics"),
    *("notes", "given", "base", "words", "set", "stream", "stream_test", "schema", "files"),
}
_MEASURING = ("trace", "tensorboard")
"""Files of the first rank, whose values all ranks measure: each must know whether there is one."""
_INPUTS = ("raw_data_file", "processed_data_file", "load_model", "resume")


def start_facts(options: Options) -> Facts:
    """Return the version, the code, the options, the knobs and the inputs of this rank.

    Inputs are compared by what they are, so that every host may have them at another path;
    an option about one rank's threads or log may differ.
    """
    facts = program_facts() | {
        "DLRMJIT_TARGET": knobs.target() or "unset",
        "DLRMJIT_BACKEND": knobs.backend(),
        "DLRMJIT_ACTIVATIONS": knobs.activations() or "unset",
        "DLRM_ALLTOALL_IMPL": knobs.alltoall(),
    }
    facts |= {flag_of(n): "given" if getattr(options, n) else "unset" for n in _MEASURING}
    facts |= _inputs(options)
    for name in sorted(vars(options), key=lambda name: (name != "config", name)):
        if name not in _OF_ONE_RANK and name not in _INPUTS[:-1]:
            facts[flag_of(name)] = _shown(options, name)
    return facts


def _shown(options: Options, name: str) -> str:
    """Return the value of an option, marked where it is a default: some defaults depend on that."""
    value = getattr(options, name)
    if value in (None, ""):
        return "unset"
    return str(value) if name in options.given else f"{value} by default"


def model_facts(model: Model, data: Data, start: RunState) -> Facts:
    """Return what a rank has built: the model, the plan, the data and the position in them."""
    facts = {f"the model's {name}": str(value) for name, value in model.config.to_dict().items()}
    if isinstance(model, ShardedModel):
        facts["the plan"] = "; ".join(map(str, model.plan.placements))
    for name, source in (("training", data.train), ("test", data.test)):
        facts[f"the number of {name} samples"] = str(source.num_samples)
        facts[f"the number of {name} batches"] = str(source.num_batches)
    facts["the kind of data"] = type(data.train).__name__
    return facts | {f"the restored {name}": str(value) for name, value in vars(start).items()}


def _inputs(options: Options) -> Facts:
    """Return the identity of every input that the options name."""
    given = {name: getattr(options, name) for name in _INPUTS}
    facts = {f"the content of {flag_of(n)}": identity(Path(p)) for n, p in given.items() if p}
    paths = (*options.stream, *options.stream_test, *filter(None, [options.schema]))
    facts |= {f"the content of file {i}": identity(Path(p)) for i, p in enumerate(paths)}
    if Path(options.plan).suffix == ".json":
        facts["the content of --plan"] = identity(Path(options.plan))
    return facts
