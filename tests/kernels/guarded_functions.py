"""The functions of the kernels that take arrays, and which of them they write."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import dlrmjit_kernels

WRITTEN: dict[str, dict[str, set[str]]] = {
    "matmul.gemm": {"gemm": {"out"}},
    "layers.fully_connected": {
        "fc_forward": {"y", "slopes"},
        "fc_backward_data": {"dx"},
        "fc_backward_weights": {"dw", "db"},
        "bind_forward": {"y", "slopes", "epilogue"},
        "bind_backward_data": {"dx", "epilogue"},
        "bind_backward_weights": {"dw", "db"},
    },
    "convolution.direct": {
        "conv_forward": {"y"},
        "conv_backward_data": {"dx"},
        "conv_backward_weights": {"dw"},
        "bind_forward": {"y"},
        "bind_backward_data": {"dx"},
        "bind_backward_weights": {"dw"},
    },
    "convolution.pooling": {
        "max_pool": {"y"},
        "average_pool": {"y"},
        "max_pool_backward": {"dx"},
        "average_pool_backward": {"dx"},
    },
    "convolution.pixels": {"images_of_rows": {"images"}, "rows_of_images": {"rows"}},
    "convolution.positions": {
        "position_sums": {"y"},
        "position_sums_backward": {"dx", "dw"},
    },
    "convolution.shape": {
        "images_matrix": set(),
        "filters_matrix": set(),
        "images_array": set(),
        "filters_array": set(),
    },
    "layers.bf16_gemm": {"upcast": set()},
    "layers.column_ops": {
        "run_column_op": {"matrices"},
        "column_sums": set(),
        "bind_column_op": {"matrices", "sums"},
        "shape_of": set(),
    },
    "layers.cross": {"bind_start": {"dz", "dx0"}},
    "layers.interaction": {
        "interaction_forward": {"out"},
        "interaction_backward": {"dfeatures"},
        "bind_interaction_forward": {"out"},
        "bind_interaction_backward": {"dfeatures"},
    },
    "layers.loss": {
        "bind_probabilities": {"p"},
        "probabilities": {"p"},
        "loss_forward": set(),
        "loss_gradient": {"p", "dlogits"},
    },
    "layers.elementwise": {
        "scale": {"x"},
        "sum_of_squares": set(),
        "relu_backward": {"dx"},
        "sigmoid_backward": {"dx"},
        "bind_relu_backward": {"dx"},
        "bind_sigmoid_backward": {"dx"},
        "bind_activation_backward": {"dx"},
    },
    "layers.dropout": {"dropout": {"y"}},
    "layers.batch_norm": {
        "column_moments": {"mean", "variance"},
        "normalise_relu": {"y"},
        "normalise": {"y", "slopes"},
        "normalise_add": {"y"},
        "bind_normalise": {"y", "slopes"},
        "gradient_sums": set(),
        "input_gradient": {"dy"},
        "batch_norm_backward": {"dy", "dgamma", "dbeta"},
    },
    "layers.layer_norm": {
        "layer_norm_forward": {"y", "mean", "inverse"},
        "layer_norm_backward": {"dy", "dgamma", "dbeta"},
    },
    "layers.dense_optimizers": {
        "sgd_step": {"p"},
        "adagrad_step": {"p", "state"},
    },
    "embedding.embedding_bag": {"embedding_bag": {"out"}},
    "embedding.dense_gradient": {"accumulate_dense": {"dense"}},
    "embedding.combine": {"bind_combine": {"out"}, "bind_combine_gradients": {"dpooled"}},
    "embedding.forward": {"pool": {"out"}},
    "embedding.grad_norm": {"gradient_square": set()},
    "embedding.init": {
        "touch_pages": {"data"},
        "uniform": {"table"},
        "uniform_by_key": {"table"},
        "fill": {"array"},
    },
    "embedding.lookup_sort": {"sort_lookups": set()},
    "embedding.lookup_weights": {"weighted": set(), "weight_gradient": set()},
    "embedding.pair_sums": {"sum_tables": {"sums", "pairs"}},
    "embedding.update": {"apply": set(), "apply_pairs": set()},
    "auc": {"ranking_metrics": set(), "ranking_sums": set()},
    "layers.list_loss": {"list_loss_gradient": {"dscores"}},
    "layers.pair_vectors": {"pair_products": {"sums", "y"}, "pair_gradients": {"dx"}},
    "lists.add_norm": {
        "add_norm_forward": {"y", "unit", "inverse"},
        "add_norm_backward": {"dx", "dgamma", "dbeta"},
    },
    "lists.attention": {
        "attention_forward": {"y", "shares"},
        "attention_backward": {"dqkv"},
    },
    "lists.pair_mean": {
        "pair_mean_forward": {"y"},
        "pair_mean_backward": {"dab", "dweights", "dbiases"},
    },
    "lists.set_mean": {"set_mean": {"y"}},
    "list_metrics": {"list_metrics": set(), "list_ranks": set()},
    "precision": {"round_to_bf16": set(), "to_precision": set()},
    "matrix.bf16_bits": {"to_bf16": {"bits"}, "from_bf16": {"values"}},
    "matrix.split_transpose": {"transpose_weights": set(), "bind_transpose": set()},
}
"""Every function that takes arrays, by module, and the operands that it writes."""
NO_ACCESS = {
    "embedding.forward": {"check_pooled", "check_weights"},
    "embedding.lookup_sort": {"buckets_of"},
    "layers.column_ops": {"check_in_place"},
    "embedding.pair_sums": {"shared_gradient"},
    "layers.cross": {"forward_epilogue", "backward_epilogue", "last_epilogue"},
    "layers.loss": {"column_of"},
    "list_metrics": {"list_lengths", "list_parts"},
    "lists.attention": {"shares_size"},
    "lists.pair_plan": {"inputs_and_outputs", "with_weights", "unpack_gradients"},
    "matrix.matrix": {"layout_of", "check_written", "check_apart"},
    "runtime.operands": {
        *("check_array", "check_flags", "check_disjoint", "check_separate"),
        *("check_same_or_disjoint", "describe"),
    },
}
"""Functions that take arrays for their facts, or read them by NumPy only."""
METHODS = {
    "embedding.tables": {
        "EmbeddingTables": {
            "check": set(),
            "lookup": {"out"},
            "apply_gradient": set(),
            "accumulate_gradient": {"dense"},
        }
    },
    "ids.id_tables": {"IdTables": {"find": {"rows"}, "assign": {"rows"}}},
    "embedding.int8": {"Int8Tables": {"pool": {"out"}}},
    "matrix.split_weights": {"SplitWeights": {"upcast": {"into"}}},
}
"""Methods that take arrays, by module and class."""

_ARRAYS = re.compile(r"ndarray|Matrix|Lookups|Bags|SplitWeights|Epilogue")


def functions_of_arrays() -> Iterator[tuple[str, str]]:
    """Yield module and name of every public Python function of the package that takes arrays."""
    prefix = f"{dlrmjit_kernels.__name__}."
    for found in pkgutil.walk_packages(dlrmjit_kernels.__path__, prefix):
        module = importlib.import_module(found.name)
        for name, function in vars(module).items():
            if not inspect.isfunction(function) or function.__module__ != found.name:
                continue
            if not name.startswith("_") and _takes_arrays(function):
                yield found.name.removeprefix(prefix), name


def _takes_arrays(function: Any) -> bool:
    hints = get_type_hints(function)
    return any(_ARRAYS.search(str(hint)) for name, hint in hints.items() if name != "return")
