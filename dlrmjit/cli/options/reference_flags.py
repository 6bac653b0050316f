"""All 76 flags of the reference program, in its order, and what each does here."""

from __future__ import annotations

from dlrmjit.cli.options.domain import PROBABILITY, at_least, between
from dlrmjit.cli.options.flag import Effect, Flag, FlagGroup
from dlrmjit.cli.options.kinds import boolean, dashed_floats, dashed_ints, mlp_widths, switch
from dlrmjit.cli.options.own_flags import OPTIMIZER_NAMES

_IGNORED, _REFUSED = Effect.IGNORED, Effect.REFUSED
_NO_QUANTIZATION = "models run in 32 bits; leave the flag out"
_READER = "one process prepares the data"

MODEL = FlagGroup(
    "model",
    (
        Flag(
            "arch-sparse-feature-size", int, 2, "width of every embedding table", domain=at_least(1)
        ),
        Flag(
            "arch-embedding-size",
            dashed_ints,
            (4, 3, 2),
            "rows of each embedding table (those of a data set come with it)",
            domain=at_least(1),
        ),
        Flag(
            "arch-mlp-bot",
            mlp_widths,
            (4, 3, 2),
            "widths of the bottom MLP, input first; 0: no dense features, no bottom MLP",
            domain=at_least(1),
        ),
        Flag(
            "arch-mlp-top",
            dashed_ints,
            (4, 2, 1),
            "widths of the top MLP, without its input",
            domain=at_least(1),
        ),
        Flag(
            "arch-interaction-op",
            str,
            "dot",
            "how features interact: pairwise dot products, or concatenation",
            values=("dot", "cat"),
        ),
        Flag("arch-interaction-itself", switch, False, "also interact each feature with itself"),
        Flag(
            "weighted-pooling",
            str,
            None,
            "weights of pooled rows: fixed (all ones), or learned, one per row, 1 at first",
            values=("fixed", "learned"),
        ),
        Flag(
            "md-flag",
            switch,
            False,
            "mixed dimensions: the more rows, the narrower a table, projected to the common width",
        ),
        Flag(
            "md-threshold",
            int,
            200,
            "mixed dimensions: tables of up to this many rows have full width",
        ),
        Flag(
            "md-temperature",
            float,
            0.3,
            "mixed dimensions: widths fall with this power of the number of rows",
            domain=at_least(0),
        ),
        Flag("md-round-dims", switch, False, "mixed dimensions: round widths to powers of two"),
        Flag(
            "qr-flag",
            switch,
            False,
            "quotient-remainder: two smaller tables, of quotients and of remainders, for each",
        ),
        Flag(
            "qr-threshold",
            int,
            200,
            "quotient-remainder: tables of up to this many rows stay whole",
        ),
        Flag(
            "qr-operation",
            str,
            "mult",
            "quotient-remainder: how the vectors of both tables become one",
            values=("mult", "add", "concat"),
        ),
        Flag(
            "qr-collisions",
            int,
            4,
            "quotient-remainder: values that share a quotient; there are as many remainders",
            domain=at_least(1),
        ),
        Flag(
            "activation-function",
            str,
            "relu",
            "activation of hidden layers",
            _IGNORED,
            "hidden layers always use ReLU",
        ),
    ),
    may_be_abbreviated=True,
)

LOSS = FlagGroup(
    "loss",
    (
        Flag(
            "loss-function",
            str,
            "mse",
            "mean squared error, or binary cross entropy, plain or weighted",
            values=("mse", "bce", "wbce"),
        ),
        Flag(
            "loss-weights",
            dashed_floats,
            (1.0, 1.0),
            "wbce: weights of negative and of positive samples",
        ),
        Flag(
            "loss-threshold",
            float,
            0.0,
            "clamp predictions to [t, 1-t] when 0 < t < 1",
            domain=at_least(0),
        ),
        Flag("round-targets", boolean, False, "round the targets to 0 or 1"),
    ),
    may_be_abbreviated=True,
)

DATA = FlagGroup(
    "data",
    (
        Flag("data-size", int, 1, "samples to generate", domain=at_least(1)),
        Flag(
            "num-batches",
            int,
            0,
            "mini-batches per epoch; overrides --data-size, and limits a data set",
            domain=at_least(0),
        ),
        Flag(
            "data-generation",
            str,
            "random",
            "source of the samples; synthetic is Criteo-like data that a model can learn, stream "
            "trains on FILE... without a set",
            values=("random", "synthetic", "dataset", "stream", "internal"),
            supported=("random", "synthetic", "dataset", "stream"),
            note="it needs libraries that were never published; use random, synthetic, dataset or "
            "stream",
        ),
        Flag(
            "rand-data-dist",
            str,
            "uniform",
            "random data: distribution of the indices",
            values=("uniform", "gaussian"),
        ),
        Flag("rand-data-min", float, 0.0, "random data: gaussian, least value"),
        Flag("rand-data-max", float, 1.0, "random data: gaussian, greatest value"),
        Flag("rand-data-mu", float, -1.0, "random data: gaussian, mean (-1: the middle)"),
        Flag(
            "rand-data-sigma",
            float,
            1.0,
            "random data: gaussian, standard deviation",
            domain=at_least(0),
        ),
        Flag(
            "data-trace-file",
            str,
            "./input/dist_emb_j.log",
            "trace of table j",
            _IGNORED,
            "traces are not replayed; use --data-generation=synthetic for skewed indices",
        ),
        Flag(
            "data-set",
            str,
            "kaggle",
            "which Criteo data set",
            values=("kaggle", "terabyte"),
        ),
        Flag("raw-data-file", str, "", "the data set's text file, plain or .gz"),
        Flag(
            "processed-data-file",
            str,
            "",
            "the data set as the reference's .npz, or a directory made by dlrmjit.prepare",
        ),
        Flag(
            "data-randomize",
            str,
            "total",
            "shuffle the training rows: all, within each day, or not",
            values=("total", "day", "none"),
        ),
        Flag(
            "data-trace-enable-padding",
            boolean,
            False,
            "pad traces",
            _IGNORED,
            "traces are not replayed",
        ),
        Flag(
            "max-ind-range", int, -1, "limit the rows of every table to this, taking ids modulo it"
        ),
        Flag(
            "data-sub-sample-rate",
            float,
            0.0,
            "probability of dropping a negative sample of the training set",
            domain=PROBABILITY,
        ),
        Flag("num-indices-per-lookup", int, 10, "random data: lookups per bag", domain=at_least(1)),
        Flag(
            "num-indices-per-lookup-fixed",
            boolean,
            False,
            "random data: exactly --num-indices-per-lookup in every bag, not up to that many",
        ),
        Flag("num-workers", int, 0, "loader processes", _IGNORED, _READER),
        Flag(
            "memory-map",
            switch,
            False,
            "read the reference's files of days where they exist",
        ),
        Flag(
            "dataset-multiprocessing",
            switch,
            False,
            "preprocess in several processes",
            _IGNORED,
            _READER,
        ),
    ),
    may_be_abbreviated=True,
)

TRAINING = FlagGroup(
    "training",
    (
        Flag("mini-batch-size", int, 1, "samples of a step, over all ranks", domain=at_least(1)),
        Flag("nepochs", int, 1, "passes over the training data", domain=at_least(0)),
        Flag("learning-rate", float, 0.01, "learning rate of MLPs and tables", domain=at_least(0)),
        Flag("print-precision", int, 5, "digits of --debug-mode's numbers", domain=at_least(0)),
        Flag(
            "numpy-rand-seed",
            int,
            123,
            "seed of data and weights",
            domain=between(0, 2**32 - 1),
        ),
        Flag(
            "sync-dense-params",
            boolean,
            True,
            "start all ranks from the same weights",
            _IGNORED,
            "all ranks compute the same weights from the seed",
        ),
        Flag(
            "optimizer",
            str,
            "sgd",
            "optimizer of MLPs and tables",
            values=OPTIMIZER_NAMES,
        ),
        Flag("lr-num-warmup-steps", int, 0, "steps of linear warm-up", domain=at_least(0)),
        Flag("lr-decay-start-step", int, 0, "step at which the decay starts", domain=at_least(0)),
        Flag("lr-num-decay-steps", int, 0, "steps of quadratic decay", domain=at_least(0)),
    ),
    may_be_abbreviated=True,
)

INFERENCE = FlagGroup(
    "inference",
    (
        Flag("inference-only", switch, False, "test the model without training it"),
        Flag(
            "quantize-mlp-with-bit",
            int,
            32,
            "bits of MLP weights",
            _REFUSED,
            _NO_QUANTIZATION,
        ),
        Flag("quantize-emb-with-bit", int, 32, "bits of tables", _REFUSED, _NO_QUANTIZATION),
        Flag(
            "save-onnx",
            switch,
            False,
            "export to ONNX",
            _REFUSED,
            "write the weights as safetensors with --save-model DIR instead",
        ),
    ),
    may_be_abbreviated=True,
)

DEVICES = FlagGroup(
    "devices and processes",
    (
        Flag(
            "use-gpu",
            switch,
            False,
            "train on a GPU",
            _REFUSED,
            "dlrmjit trains on CPUs; leave the flag out",
        ),
        Flag("local_rank", int, -1, "rank on this node", _IGNORED, "mpiexec assigns ranks"),
        Flag("dist-backend", str, "", "communication library", _IGNORED, "ranks use MPI"),
    ),
    may_be_abbreviated=True,
)

OUTPUT = FlagGroup(
    "tests and output",
    (
        Flag("print-freq", int, 1, "steps between lines on the output", domain=at_least(1)),
        Flag("test-freq", int, -1, "steps between tests (-1: no tests)"),
        Flag("test-mini-batch-size", int, -1, "samples per test batch (-1: as in training)"),
        Flag("test-num-workers", int, -1, "loader processes of tests", _IGNORED, _READER),
        Flag("print-time", switch, False, "print the measured ms/it, not -1.00"),
        Flag("print-wall-time", switch, False, "end lines with the time of day"),
        Flag("debug-mode", switch, False, "print the model, the data and the weights"),
        Flag("enable-profiling", switch, False, "print the time of every operation at the end"),
        Flag(
            "plot-compute-graph",
            switch,
            False,
            "draw the graph of operations",
            _IGNORED,
            "--debug-mode prints the model",
        ),
        Flag(
            "tensor-board-filename",
            str,
            "run_kaggle_pt",
            "TensorBoard log",
            _IGNORED,
            "losses and test results are in --log-json FILE",
        ),
        Flag(
            "save-model",
            str,
            "",
            "where to save the best model: a directory, or a file ending in .pt",
        ),
        Flag("load-model", str, "", "start from a saved model and its position in training"),
    ),
    may_be_abbreviated=True,
)

MLPERF = FlagGroup(
    "MLPerf",
    (
        Flag("mlperf-logging", switch, False, "print MLLOG lines and more test metrics"),
        Flag("mlperf-acc-threshold", float, 0.0, "stop at this test accuracy", domain=at_least(0)),
        Flag("mlperf-auc-threshold", float, 0.0, "stop at this test AUC", domain=at_least(0)),
        Flag("mlperf-bin-loader", switch, False, "read MLPerf's .bin files"),
        Flag("mlperf-bin-shuffle", switch, False, "shuffle .bin batches, not their samples"),
        Flag(
            "mlperf-grad-accum-iter",
            int,
            1,
            "mini-batches whose gradients are summed before an update",
            domain=at_least(1),
        ),
    ),
    may_be_abbreviated=True,
)

REFERENCE_GROUPS = (MODEL, LOSS, DATA, TRAINING, INFERENCE, DEVICES, OUTPUT, MLPERF)
