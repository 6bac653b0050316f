"""Options that the reference does not have: ours, and those that Intel's variants carry."""

from __future__ import annotations

from dlrmjit.cli.options.flag import Effect, Flag, FlagGroup, dashed_ints, switch

OWN = FlagGroup(
    "dlrmjit",
    (
        Flag(
            "config",
            str,
            None,
            "a named model with its training defaults, which explicit options override: "
            "small, large, mlperf, kaggle, terabyte or demo",
        ),
        Flag("threads", int, None, "threads to compute with (default: all CPUs)", minimum=1),
        Flag("log-json", str, None, "write JSON Lines of every step and test to this file"),
        Flag(
            "precision",
            str,
            "fp32",
            "how parameters are stored: bf16 reads the upper halves of float32 numbers and trains "
            "both (Split-BF16)",
            values=("fp32", "bf16"),
        ),
        Flag(
            "resume",
            str,
            None,
            "go on from the checkpoint in this directory, and keep saving there",
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
            "width of each table, at most --arch-sparse-feature-size, to which narrower ones are "
            "projected (default: all of that width)",
        ),
        Flag(
            "test-split",
            str,
            "test",
            "rows of a prepared set that tests during training look at",
            values=("test", "validation"),
        ),
        Flag(
            "train-fraction",
            float,
            None,
            "train on this first part of a data set's rows and test on the rest, not by days",
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
            "where tables live under mpiexec: auto, whole, columns, rows, replicated, or a .json "
            "file as python -m dlrmjit.plan writes",
        ),
        Flag(
            "init",
            str,
            "reference",
            "first values of the tables: reference draws the reference's numbers, one after the "
            "other; counter makes any part of any table, on all threads, the same for any ranks",
            values=("reference", "counter"),
        ),
        Flag(
            "comm",
            str,
            "overlap",
            "whether ranks talk while they compute: overlap (MPI is called between operations), "
            "thread (a thread calls it all the time), blocking",
            values=("overlap", "thread", "blocking"),
        ),
        Flag(
            "comm-cores",
            int,
            0,
            "CPUs of each rank that the thread of --comm=thread has to itself (0: it shares them)",
            minimum=0,
        ),
        Flag(
            "reproducible",
            int,
            None,
            "deal batches to this many virtual shards, a multiple of the ranks: the same bits for "
            "any number of ranks",
            minimum=1,
        ),
    ),
)

TABLES = FlagGroup(
    "embedding tables",
    (
        Flag(
            "embedding-dir",
            str,
            None,
            "keep embedding tables, and what optimisers remember of their rows, in files in this "
            "directory that end with the run; they may exceed memory",
        ),
        Flag(
            "bounds",
            str,
            "raise",
            "a stored index outside its table: refuse the batch, take the nearest row, or leave "
            "the lookup out",
            values=("raise", "clamp", "ignore"),
        ),
    ),
)

OPTIMIZERS = FlagGroup(
    "Optimisers and regularisers beyond the reference's",
    (
        Flag("dropout", float, 0.0, "share of outputs of hidden layers to drop", minimum=0),
        Flag("batch-norm", switch, False, "normalise hidden layers over the batch"),
        Flag(
            "sparse-optimizer",
            str,
            None,
            "of the embedding tables (default: that of --optimizer)",
            values=("sgd", "adagrad", "rwsadagrad", "adam"),
        ),
        Flag(
            "sparse-learning-rate",
            float,
            None,
            "of the embedding tables, on the same schedule (default: --learning-rate)",
            minimum=0,
        ),
        Flag(
            "sparse-init-scale",
            float,
            1.0,
            "multiply the first weights of the embedding tables by this; 1: uniform within "
            "sqrt(1 / rows), as the reference",
            minimum=0,
        ),
        Flag("momentum", float, 0.0, "of sgd; on tables, of the rows looked up", minimum=0),
        Flag("optimizer-eps", float, None, "epsilon of adagrad, rwsadagrad and adam", minimum=0),
        Flag(
            "weight-decay",
            float,
            0.0,
            "L2: this times the weights is added to gradients, of tables where looked up",
            minimum=0,
        ),
        Flag(
            "sparse-weight-decay",
            float,
            None,
            "L2 of the embedding tables (default: --weight-decay)",
            minimum=0,
        ),
        Flag(
            "early-stopping",
            int,
            0,
            "end after so many tests in a row without a better one (0: do not); with "
            "--save-model the best model is kept",
            minimum=0,
        ),
        Flag(
            "clip-norm",
            float,
            0.0,
            "scale the gradients of a step down to this norm of all together (0: do not)",
            minimum=0,
        ),
        Flag(
            "reduce-on-plateau",
            float,
            0.0,
            "multiply the learning rate by this when tests no longer improve (0: do not)",
            minimum=0,
        ),
        Flag(
            "plateau-patience",
            int,
            10,
            "tests without improvement before --reduce-on-plateau reduces",
            minimum=0,
        ),
        Flag(
            "plateau-threshold",
            float,
            1e-4,
            "by how much more than the best test so far one must be better to count as improvement "
            "for --reduce-on-plateau",
            minimum=0,
        ),
    ),
)

_FASTEST = "the fastest way this CPU offers is always taken"
_IGNORED = Effect.IGNORED

INTEL = FlagGroup(
    "Intel's variants",
    (
        Flag("bf16", switch, False, "BF16", _IGNORED, "give --precision=bf16"),
        Flag("use-ipex", switch, False, "IPEX", _IGNORED, _FASTEST),
        Flag("ipex-interaction", switch, False, "IPEX interaction", _IGNORED, _FASTEST),
        Flag("ipex-merged-emb", switch, False, "merged tables", _IGNORED, _FASTEST),
        Flag("enable-mlp-fusion", switch, False, "fused MLPs", _IGNORED, _FASTEST),
        Flag("allreduce-wait", switch, False, "blocking", _IGNORED, "training is one process"),
        Flag(
            "hybrid-gradient-emb",
            switch,
            False,
            "replicate small tables",
            _IGNORED,
            "training is one process",
        ),
        Flag(
            "sparse-dense-boundary",
            int,
            2048,
            "rows of a small table",
            _IGNORED,
            "training is one process",
        ),
        Flag("lamblr", float, 0.01, "rate of LAMB", _IGNORED, "LAMB is not implemented"),
        Flag(
            "padding-last-test-batch",
            switch,
            False,
            "pad the last test batch",
            _IGNORED,
            "a last batch of any size is tested as it is",
        ),
        Flag(
            "profiling-start-iter",
            int,
            50,
            "first step to profile",
            _IGNORED,
            "the time of every step is in --log-json FILE",
        ),
        Flag(
            "profiling-num-iters",
            int,
            100,
            "steps to profile",
            _IGNORED,
            "the time of every step is in --log-json FILE",
        ),
        Flag(
            "out-dir",
            str,
            ".",
            "folder of profiles",
            _IGNORED,
            "files are written where --log-json and --save-model say",
        ),
    ),
)
