"""Flags of training that the reference does not have: ours, and those of Intel's variants."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from dlrmjit.cli.options.domain import BELOW_ONE, PROPER_FRACTION, at_least, between
from dlrmjit.cli.options.flag import Effect, Flag, FlagGroup
from dlrmjit.cli.options.kinds import PLANS, dashed_ints, interval, named_rates, switch
from dlrmjit.cli.options.prepare_flags import COMM_TIMEOUT
from dlrmjit.config.list_loss import LIST_LOSSES
from dlrmjit.config.optimizer import OPTIMIZERS as RULES
from dlrmjit.config.presets import PRESETS
from dlrmjit.config.training import Monitor

OPTIMIZER_NAMES = tuple(RULES)


def _optimizers_with(constant: str) -> str:
    """Return the names of the optimizers that have a constant, as words."""
    names = [name for name, rule in RULES.items() if constant in {f.name for f in fields(rule)}]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


OWN = FlagGroup(
    "dlrmjit",
    (
        Flag(
            "set",
            str,
            "",
            "a prepared set to train on: with it alone, everything else follows from its size, and "
            "the model is compared with a baseline",
            is_operand=True,
        ),
        Flag(
            "baseline",
            str,
            "base-rate",
            "what a model of SET is compared with: the share of clicks alone, or also a logistic "
            "regression trained on the same rows",
            values=("base-rate", "logistic"),
        ),
        Flag(
            "config",
            str,
            None,
            "a named model with its training defaults, which explicit options override",
            values=tuple(PRESETS),
        ),
        Flag(
            "threads",
            int,
            None,
            "threads to compute with (default: all CPUs)",
            domain=at_least(1),
        ),
        Flag(
            "log-json",
            str,
            None,
            "write every step and test to this file as JSON Lines",
            metavar="FILE",
        ),
        Flag(
            "precision",
            str,
            "fp32",
            "precision of the parameters: bf16 computes with the high 16 bits of float32 values "
            "and updates all 32 (Split-BF16)",
            values=("fp32", "bf16"),
        ),
        Flag(
            "soft-labels",
            switch,
            False,
            "train bce on labels that are probabilities, such as rates of clicks, not only 0 or 1",
        ),
        Flag(
            "resume",
            str,
            None,
            "continue from the newest checkpoint of the run that saves to this directory, or start "
            "one if nothing is there yet, and save later ones there",
            metavar="DIR",
        ),
        Flag(
            "backend",
            str,
            None,
            "compiled kernels, or NumPy alone (default: jit)",
            values=("jit", "reference"),
        ),
        Flag(
            "table-dims",
            dashed_ints,
            (),
            "width of each table, at most --arch-sparse-feature-size, to which narrower tables "
            "are projected (default: --arch-sparse-feature-size for all)",
            domain=at_least(1),
        ),
        Flag("pooling", str, "sum", "how a bag's rows become a vector", values=("sum", "mean")),
        Flag(
            "multi-hot-sizes",
            dashed_ints,
            (),
            "lookups per bag of each table in random and synthetic data, with repetition (default: "
            "--num-indices-per-lookup for all)",
            domain=at_least(1),
        ),
        Flag(
            "test-split",
            str,
            "test",
            "rows of a prepared set to test on during training",
            values=("test", "validation"),
        ),
        Flag(
            "train-fraction",
            float,
            None,
            "train on this first part of a data set's rows and test on the rest, instead of "
            "splitting by day",
            domain=PROPER_FRACTION,
        ),
    ),
    may_be_abbreviated=True,
)

SAVING = FlagGroup(
    "saving, and what is not finite",
    (
        Flag(
            "save-every",
            interval,
            None,
            "save the state of the run every N steps, or after so many seconds, minutes or hours, "
            "next to the best model (needs --save-model or --resume)",
        ),
        Flag(
            "keep",
            int,
            1,
            "number of states of --save-every that are kept",
            domain=at_least(1),
        ),
        Flag(
            "on-nonfinite",
            str,
            "stop",
            "what to do with a batch whose loss is not finite: stop the run, or skip the batch",
            values=("stop", "skip"),
        ),
    ),
)

RANKS = FlagGroup(
    "many ranks, under mpiexec",
    (
        Flag(
            "plan",
            str,
            "auto",
            f"how tables are sharded over ranks: {', '.join(PLANS)}, or a .json file written by "
            "dlrmjit plan",
            metavar="PLAN",
        ),
        Flag(
            "exchange",
            str,
            "auto",
            "what ranks exchange of embeddings: alltoall, vectors; substitute, sums where a model "
            "needs no more, as lr and fm, and products of first layers; auto, what is fewer bytes",
            values=("auto", "alltoall", "substitute"),
        ),
        Flag(
            "init",
            str,
            "reference",
            "initial values of the tables: reference draws them from the reference's random "
            "stream, one after the other; counter computes any part of any table on all threads, "
            "with the same values for any number of ranks",
            values=("reference", "counter"),
        ),
        Flag(
            "comm",
            str,
            "auto",
            "how ranks communicate while they compute: overlap calls MPI between operations, "
            "thread calls it from a separate thread, blocking waits for every exchange; auto takes "
            "the faster of the first two, after 16 steps",
            values=("auto", "overlap", "thread", "blocking"),
        ),
        Flag(
            "comm-dtype",
            str,
            "fp32",
            "numbers in which pooled vectors and their gradients travel; bf16 halves the bytes, "
            "rounded to nearest",
            values=("fp32", "bf16"),
        ),
        Flag(
            "micro-batches",
            int,
            None,
            "parts of a rank's samples, of which one is computed while the vectors of the next "
            "travel (default: 2 between hosts, 1 on one)",
            domain=between(1, 4096),
        ),
        Flag(
            "comm-cores",
            int,
            0,
            "CPUs of each rank reserved for the thread of --comm=thread (0: none, it shares them)",
            domain=at_least(0),
        ),
        COMM_TIMEOUT,
        Flag(
            "reproducible",
            int,
            None,
            "split every batch into this many micro-batches, a multiple of the ranks, for results "
            "with the same bits for any number of ranks",
            domain=between(1, 4096),
        ),
    ),
)

OPTIMIZERS = FlagGroup(
    "optimizers and regularisers beyond the reference's",
    (
        Flag(
            "dropout",
            float,
            0.0,
            "probability of dropping an output of a hidden layer",
            domain=BELOW_ONE,
        ),
        Flag("batch-norm", switch, False, "normalise the outputs of hidden layers over the batch"),
        Flag("layer-norm", switch, False, "normalise the outputs of hidden layers by sample"),
        Flag(
            "sparse-optimizer",
            str,
            None,
            "optimizer of the embedding tables (default: that of --optimizer)",
            values=OPTIMIZER_NAMES,
        ),
        Flag(
            "sparse-learning-rate",
            float,
            None,
            "learning rate of the embedding tables, on the same schedule (default: "
            "--learning-rate)",
            domain=at_least(0),
        ),
        Flag(
            "table-learning-rate",
            named_rates,
            (),
            "learning rate of the tables of single columns, on the same schedule: by a column's "
            "name, if the data have names, or its number from 0; at 0 they do not change",
        ),
        Flag(
            "sparse-init-scale",
            float,
            1.0,
            "multiply the initial values of the embedding tables by this; 1: uniform within "
            "sqrt(1 / rows), as in the reference",
            domain=at_least(0),
        ),
        Flag(
            "momentum",
            float,
            0.0,
            "momentum of sgd; on tables only for the rows looked up",
            domain=at_least(0),
        ),
        Flag(
            "optimizer-eps",
            float,
            None,
            f"epsilon of {_optimizers_with('eps')}",
            domain=at_least(0),
        ),
        Flag(
            "optimizer-l1-strength",
            float,
            None,
            "threshold of ftrl, which sets weights to zero that gain less (default: 0)",
            domain=at_least(0),
        ),
        Flag(
            "optimizer-l2-strength",
            float,
            None,
            "strength with which ftrl holds weights near zero (default: 0)",
            domain=at_least(0),
        ),
        Flag(
            "optimizer-beta",
            float,
            None,
            "beta of ftrl, which bounds its first steps (default: 1)",
            domain=at_least(0),
        ),
        Flag(
            "weight-decay",
            float,
            None,
            "L2: add this times the weights to the gradients, on tables only for the rows looked "
            "up; of adamw, take this times the rate of the weights themselves (default: 0, of "
            "adamw 0.01)",
            domain=at_least(0),
        ),
        Flag(
            "sparse-weight-decay",
            float,
            None,
            "L2 of the embedding tables (default: --weight-decay)",
            domain=at_least(0),
        ),
        Flag(
            "monitor",
            str,
            None,
            "by what a test is better than another, for --save-model, --early-stopping, "
            "--reduce-on-plateau and --restore-best: a larger AUC, a smaller logloss or, of lists, "
            "a larger NDCG; a larger accuracy where that is undefined (default: ndcg with "
            "--list-loss, else auc)",
            values=get_args(Monitor),
        ),
        Flag(
            "list-loss",
            str,
            None,
            "train on whole lists of a set with lists, by this loss of their order instead of "
            "--loss-function, see docs/lists.md",
            values=tuple(LIST_LOSSES),
        ),
        Flag(
            "restore-best",
            switch,
            False,
            "end with the parameters of the best test instead of the last step's, for the final "
            "report; takes memory for a second copy of all parameters",
        ),
        Flag(
            "linear-start",
            switch,
            False,
            "solve a logistic regression (--model=wide-deep or lr) or a factorisation machine "
            "(deepfm or fm) of the training rows first, start from it, and test this start",
        ),
        Flag(
            "early-stopping",
            int,
            0,
            "stop after this many consecutive tests without improvement (0: never); --save-model "
            "still saves the best model",
            domain=at_least(0),
        ),
        Flag(
            "clip-norm",
            float,
            0.0,
            "scale all gradients of a step down to this Euclidean norm together (0: do not clip)",
            domain=at_least(0),
        ),
        Flag(
            "reduce-on-plateau",
            float,
            0.0,
            "multiply the learning rate by this when tests stop improving (0: do not)",
            domain=at_least(0),
        ),
        Flag(
            "plateau-patience",
            int,
            10,
            "tests without improvement before --reduce-on-plateau reduces the rate",
            domain=at_least(0),
        ),
        Flag(
            "plateau-threshold",
            float,
            1e-4,
            "least margin over the best test so far that --reduce-on-plateau counts as improvement",
            domain=at_least(0),
        ),
    ),
)

_FASTEST = "the fastest implementation for this CPU is always used"
_IGNORED = Effect.IGNORED
_REPLICATED = "--plan chooses which tables are replicated"
_STEP_TIMES = "--log-json FILE has the time of every step"

INTEL = FlagGroup(
    "Intel's variants",
    (
        Flag("bf16", switch, False, "train in BF16", _IGNORED, "give --precision=bf16"),
        Flag("use-ipex", switch, False, "use IPEX", _IGNORED, _FASTEST),
        Flag("ipex-interaction", switch, False, "use IPEX's interaction", _IGNORED, _FASTEST),
        Flag("ipex-merged-emb", switch, False, "merge the tables", _IGNORED, _FASTEST),
        Flag("enable-mlp-fusion", switch, False, "fuse the layers of MLPs", _IGNORED, _FASTEST),
        Flag(
            "allreduce-wait",
            switch,
            False,
            "wait for every allreduce",
            _IGNORED,
            "--comm chooses how ranks communicate; blocking waits",
        ),
        Flag("hybrid-gradient-emb", switch, False, "replicate small tables", _IGNORED, _REPLICATED),
        Flag(
            "sparse-dense-boundary",
            int,
            2048,
            "rows below which a table is small",
            _IGNORED,
            _REPLICATED,
        ),
        Flag("lamblr", float, 0.01, "learning rate of LAMB", _IGNORED, "LAMB is not implemented"),
        Flag(
            "padding-last-test-batch",
            switch,
            False,
            "pad the last test batch",
            _IGNORED,
            "the last test batch may have any size",
        ),
        Flag("profiling-start-iter", int, 50, "first step to profile", _IGNORED, _STEP_TIMES),
        Flag("profiling-num-iters", int, 100, "steps to profile", _IGNORED, _STEP_TIMES),
        Flag(
            "out-dir",
            str,
            ".",
            "folder of profiles",
            _IGNORED,
            "--log-json and --save-model name the files to write",
        ),
    ),
)
