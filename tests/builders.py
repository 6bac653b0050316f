"""Small models, batches and jagged lookups that tests of several layers share."""

import numpy as np

from dlrmjit.architecture.families import build
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.graph import Graph


def jagged(rng, rows, n, longest=4):
    """Merged (indices, offsets) of random bags, some of them empty."""
    lengths = rng.integers(0, longest + 1, (len(rows), n))
    offsets = np.zeros((len(rows), n + 1), np.int64)
    indices, base = [], 0
    for s, m in enumerate(rows):
        offsets[s, 0] = base
        offsets[s, 1:] = base + np.cumsum(lengths[s])
        base = offsets[s, -1]
        indices.append(rng.integers(0, m, lengths[s].sum()))
    return np.concatenate(indices), offsets


def random_batch(rng, config, n, longest=4):
    """A batch of ``n`` samples that fits ``config``."""
    indices, offsets = jagged(rng, config.table_rows, n, longest)
    dense = rng.standard_normal((n, config.dense_features)).astype(np.float32)
    labels = rng.integers(0, 2, n).astype(np.float32)
    return Batch(dense, indices, offsets, labels)


def small_config(**changes):
    """A model whose sizes divide no block."""
    sizes = {
        "table_rows": (7, 1, 30),
        "embedding_dim": 6,
        "mlp_bottom": (13, 19, 6),
        "mlp_top": (33, 5, 1),
    }
    return ModelConfig(**{**sizes, **changes})


def named_gradients(model, graph):
    """Gradients of a graph that has run forward, as arrays under the parameters' names."""
    found = {}
    for parameter, gradient in graph.tape.backward(graph.loss):
        if parameter is model.tables:
            dense = gradient.to_dense(model.tables.data)
            found.update({f"emb_l.{s}.weight": g for s, g in enumerate(dense)})
        elif parameter.name.endswith("weight"):
            found[parameter.name] = model.backend.weight_to_numpy(gradient)
        else:
            found[parameter.name] = np.array(gradient)
    return found


def loss_of(config, backend, batch, names):
    """The model's loss as a function of all its parameters."""

    def function(arrays):
        model = DLRM(config, backend=backend, initialise=False)
        model.load_state(dict(zip(names, arrays, strict=True)))
        graph = Graph(model, batch.n, LossConfig("bce"))
        graph.load(batch)
        graph.tape.forward()

        def pullback(v):
            found = named_gradients(model, graph)
            return [float(v) * found[name] for name in names]

        return np.float64(graph.loss.data), pullback

    return function


def family(name, **changes):
    """A small model of a family, whose sizes divide no block."""
    values = {
        "table_rows": (7, 1, 30),
        "embedding_dim": 6,
        "mlp_bottom": (13, 19, 6),
        "mlp_top": (33, 5, 1),
        "dense_features": 13,
        "cross_rank": 5,
    }
    return build(name, {**values, **changes})
