"""Small models, batches and jagged lookups that tests of several layers share."""

from dataclasses import replace

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families import build
from dlrmjit.architecture.nodes.embedding import Embedding
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


def random_batch(rng, config, n, longest=4, weighted=False):
    """A batch of ``n`` samples that fits ``config``, with a weight per lookup if ``weighted``."""
    indices, offsets = jagged(rng, config.table_rows, n, longest)
    dense = rng.standard_normal((n, config.dense_features)).astype(np.float32)
    labels = rng.integers(0, 2, n).astype(np.float32)
    weights = rng.uniform(-1, 2, len(indices)).astype(np.float32) if weighted else None
    return Batch(dense, indices, offsets, labels, weights)


def tables_of_all_kinds(rows):
    """Models by the kind of their tables, each with whether its batches have weights."""
    qr = (3,) + (0,) + (4,) * (len(rows) - 2)
    wide = family("dlrm", table_rows=rows, embedding_dim=8, mlp_bottom=(13, 8))
    every = family("deepfm", table_rows=rows)
    for node in every.embeddings:
        every = every.with_values(node.name, pooling="mean")
    dlrm, dcnv2 = family("dlrm", table_rows=rows), family("dcnv2", table_rows=rows)
    return {
        "mixed": (family("dlrm", table_rows=rows, table_dims=(3, 6, 1, 3, 6)[: len(rows)]), False),
        "mult": (dlrm.with_values("emb_l", collisions=qr), False),
        "concat": (wide.with_values("emb_l", collisions=qr, operation="concat"), False),
        "add mean": (every.with_values("emb_l", collisions=qr, operation="add"), True),
        "weighted": (dcnv2, True),
        "learned": (dlrm.with_values("emb_l", learned=True), False),
        "learned mean": (dcnv2.with_values("emb_l", learned=True, pooling="mean"), True),
    }


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


def with_embedding(**changes):
    """A small DLRM with another embedding node."""
    nodes = small_config().architecture.nodes
    return Architecture(
        tuple(replace(n, **changes) if isinstance(n, Embedding) else n for n in nodes)
    )


def dynamic_batch(model, seed, most=1, n=24):
    """A batch whose dynamic columns have ids of 64 bits, of which later batches have others."""
    rng = np.random.default_rng(seed)
    batch = random_batch(rng, model, n, most)
    indices = batch.indices.astype(np.int64)
    for column in model.dynamic.columns:
        part = slice(batch.offsets[column, 0], batch.offsets[column, -1])
        size = part.stop - part.start
        ids = rng.integers(2 * seed, 2 * seed + 40, size) * (column + 0x5DEECE66D)
        indices[part] = np.where(ids % 3 == 0, -ids, ids << 24)
    batch.indices = indices
    return batch
