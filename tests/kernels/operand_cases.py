"""The public functions that take arrays: valid operands of each, and what is right, by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Operands = dict[str, Any]
N, C, K, F, E, S, ROWS = 6, 5, 18, 4, 8, 2, 7
_LISTS = np.array([0, 4, N])


@dataclass(frozen=True)
class Function:
    """A public function: its valid operands, those it writes, how to call it, what is right.

    ``run`` returns what the function returns, or None. ``right`` computes the outputs by name,
    ``result`` among them, with NumPy, and fails for operands that do not belong together.
    """

    name: str
    operands: Callable[[np.random.Generator], Operands]
    written: tuple[str, ...]
    run: Callable[[Operands], Any]
    right: Callable[[Operands], Operands]


def _f32(rng: np.random.Generator, *shape: int) -> Any:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def _d(array: Any) -> Any:
    """Return the operand in double precision; only arrays of numbers are operands."""
    assert isinstance(array, np.ndarray)
    assert not isinstance(array, np.ma.MaskedArray)
    assert array.dtype.kind in "fiu"
    return np.asarray(array, np.float64)


def _shape(array: Any, *shape: int) -> None:
    assert array.shape == shape, (array.shape, shape)


# ---- matrix products and layers


def _view(array: Any) -> Any:
    from dlrmjit_kernels import Matrix

    return Matrix.view(array)


def _gemm(o: Operands) -> Any:
    from dlrmjit_kernels import gemm

    return gemm(o["a"], o["b"], o["out"])


def _right_gemm(o: Operands) -> Operands:
    product = _d(o["a"]) @ _d(o["b"])
    assert product.ndim == 2
    return _output(o, product)


def _output(o: Operands, right: Any) -> Operands:
    """Return what must be returned and, unless the function makes it, be in ``out``."""
    if o["out"] is None:
        return {"result": right}
    _shape(o["out"], *right.shape)
    return {"result": right, "out": right}


def _forward(o: Operands) -> Any:
    from dlrmjit_kernels import fc_forward

    fc_forward(_view(o["x"]), _view(o["w"]), o["b"], _view(o["y"]), "relu")


def _right_forward(o: Operands) -> Operands:
    x, w = _d(o["x"]), _d(o["w"])
    b = 0 if o["b"] is None else _d(o["b"])
    if o["b"] is not None:
        _shape(b, w.shape[1])
    y = np.maximum(x @ w + b, 0)
    _shape(o["y"], *y.shape)
    return {"y": y}


def _backward_data(o: Operands) -> Any:
    from dlrmjit_kernels import fc_backward_data

    mask = None if o["mask"] is None else _view(o["mask"])
    fc_backward_data(_view(o["dz"]), _view(o["w"]), _view(o["dx"]), mask)


def _right_backward_data(o: Operands) -> Operands:
    dx = _d(o["dz"]) @ _d(o["w"]).T
    if o["mask"] is not None:
        _shape(o["mask"], *dx.shape)
        dx = dx * (_d(o["mask"]) > 0)
    _shape(o["dx"], *dx.shape)
    return {"dx": dx}


def _backward_weights(o: Operands) -> Any:
    from dlrmjit_kernels import fc_backward_weights

    fc_backward_weights(_view(o["x"]), _view(o["dz"]), _view(o["dw"]), o["db"])


def _right_backward_weights(o: Operands) -> Operands:
    dw, db = _d(o["x"]).T @ _d(o["dz"]), _d(o["dz"]).sum(0)
    _shape(o["dw"], *dw.shape)
    outputs = {"dw": dw}
    if o["db"] is not None:
        _shape(o["db"], *db.shape)
        outputs["db"] = db
    return outputs


def _matrix(o: Operands) -> Any:
    from dlrmjit_kernels import Layout, Matrix

    return Matrix(o["data"], Layout.blocked(N, C, 4, 4)).to_numpy()


def _right_matrix(o: Operands) -> Operands:
    data = _d(o["data"])
    assert data.ndim == 1
    assert data.size >= 64
    blocks = data[:64].reshape(2, 2, 4, 4).transpose(0, 2, 1, 3).reshape(8, 8)
    return {"result": blocks[:N, :C]}


def _assign(o: Operands) -> Any:
    from dlrmjit_kernels import Layout, Matrix

    Matrix(o["data"], Layout.plain(N, C)).assign(o["array"])


def _right_assign(o: Operands) -> Operands:
    array = np.asarray(o["array"])
    assert array.dtype.kind in "biuf"
    _shape(array, N, C)
    expected = np.array(o["data"], np.float64)
    expected[: N * C] = array.reshape(-1)
    return {"data": expected}


def _upcast(o: Operands) -> Any:
    from dlrmjit_kernels import Matrix, SplitWeights

    weights = SplitWeights(C, K).assign(o["values"])
    weights.upcast(Matrix(o["into"], weights.float_layout))
    return Matrix(o["into"], weights.float_layout).to_numpy()


def _right_upcast(o: Operands) -> Operands:
    values = np.asarray(o["values"])
    assert values.dtype.kind in "biuf"
    _shape(values, C, K)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF0000
    return {"result": bits.view(np.float32)}


# ---- interaction, loss, dense updates


def _interaction(o: Operands) -> Any:
    from dlrmjit_kernels import interaction_forward

    interaction_forward(o["features"], _view(o["out"]))


def _right_interaction(o: Operands) -> Operands:
    t = _d(o["features"])
    f = t.shape[1]
    z = t @ t.transpose(0, 2, 1)
    out = np.concatenate([t[:, 0], z[(slice(None), *np.tril_indices(f, -1))]], axis=1)
    _shape(o["out"], *out.shape)
    return {"out": out}


def _interaction_backward(o: Operands) -> Any:
    from dlrmjit_kernels import interaction_backward

    interaction_backward(o["features"], _view(o["dout"]), o["dfeatures"])


def _right_interaction_backward(o: Operands) -> Operands:
    t, dout = _d(o["features"]), _d(o["dout"])
    n, f, e = t.shape
    _shape(dout, n, e + f * (f - 1) // 2)
    a = np.zeros((n, f, f))
    a[(slice(None), *np.tril_indices(f, -1))] = dout[:, e:]
    dt = (a + a.transpose(0, 2, 1)) @ t
    dt[:, 0] += dout[:, :e]
    _shape(o["dfeatures"], *dt.shape)
    return {"dfeatures": dt}


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def _probabilities(o: Operands) -> Any:
    from dlrmjit_kernels import probabilities

    probabilities(o["logits"], o["p"])


def _right_probabilities(o: Operands) -> Operands:
    z = _d(o["logits"])
    assert z.ndim == 1
    _shape(o["p"], *z.shape)
    return {"p": _sigmoid(z)}


def _loss_forward(o: Operands) -> Any:
    from dlrmjit_kernels import loss_forward

    return loss_forward("mse", o["logits"], o["targets"])[1]


def _right_loss_forward(o: Operands) -> Operands:
    z, t = _d(o["logits"]), _d(o["targets"])
    assert z.ndim == 1
    _shape(t, *z.shape)
    return {"result": _sigmoid(z)}


def _loss_gradient(o: Operands) -> Any:
    from dlrmjit_kernels import loss_gradient

    loss_gradient("mse", o["logits"], o["targets"], o["p"], o["dlogits"])


def _right_loss_gradient(o: Operands) -> Operands:
    z, t = _d(o["logits"]), _d(o["targets"])
    for other in (t, o["p"], o["dlogits"]):
        _shape(other, *z.shape)
    p = _sigmoid(z)
    return {"p": p, "dlogits": 2 * (p - t) * p * (1 - p) / max(1, len(z))}


def _sgd(o: Operands) -> Any:
    from dlrmjit_kernels import sgd_step

    sgd_step(o["p"], o["g"], 0.5, 0.25)


def _right_sgd(o: Operands) -> Operands:
    p, g = _d(o["p"]), _d(o["g"])
    assert p.ndim == 1
    _shape(g, *p.shape)
    return {"p": p - 0.5 * (g + 0.25 * p)}


def _split_sgd(o: Operands) -> Any:
    from dlrmjit_kernels import Matrix, SplitWeights, sgd_step

    weights = SplitWeights(C, K).assign(np.ones((C, K)))
    sgd_step(weights, o["g"], 0.5)
    return Matrix.empty(weights.float_layout).assign(weights.to_numpy()).data


def _right_split_sgd(o: Operands) -> Operands:
    g = _d(o["g"])
    _shape(g, len(_split_gradient(np.random.default_rng(0))["g"]))
    return {"result": None}


def _split_gradient(rng: np.random.Generator) -> Operands:
    from dlrmjit_kernels import SplitWeights

    return {"g": _f32(rng, SplitWeights(C, K).float_layout.span)}


def _adagrad(o: Operands) -> Any:
    from dlrmjit_kernels import adagrad_step

    adagrad_step(o["p"], o["g"], o["state"], 0.5, 0.1)


def _right_adagrad(o: Operands) -> Operands:
    p, g, state = _d(o["p"]), _d(o["g"]), _d(o["state"])
    assert p.ndim == 1
    for other in (g, state):
        _shape(other, *p.shape)
    state = state + g * g
    return {"state": state, "p": p - 0.5 * g / (np.sqrt(state) + 0.1)}


# ---- the layers that the package does not export, and the metrics


def _relu_backward(o: Operands) -> Any:
    from dlrmjit_kernels.layers.elementwise import relu_backward

    relu_backward(_view(o["y"]), _view(o["dy"]), _view(o["dx"]))


def _right_relu_backward(o: Operands) -> Operands:
    y, dy = _d(o["y"]), _d(o["dy"])
    for other in (dy, o["dx"]):
        _shape(other, *y.shape)
    return {"dx": dy * (y > 0)}


def _scale(o: Operands) -> Any:
    from dlrmjit_kernels.layers.elementwise import scale

    scale(o["x"], 3.0)


def _right_scale(o: Operands) -> Operands:
    assert o["x"].ndim == 1
    return {"x": 3 * _d(o["x"])}


def _sum_of_squares(o: Operands) -> Any:
    from dlrmjit_kernels.layers.elementwise import sum_of_squares

    return np.array(sum_of_squares(_view(o["x"])))


def _right_sum_of_squares(o: Operands) -> Operands:
    assert o["x"].ndim == 2
    return {"result": np.sum(_d(o["x"]) ** 2)}


def _bf16_operands(rng: np.random.Generator) -> Operands:
    values = _f32(rng, 33)
    return {"values": values, "bits": (values.view(np.uint32) >> 16).astype(np.uint16)}


def _to_bf16(o: Operands) -> Any:
    from dlrmjit_kernels.matrix.bf16_bits import to_bf16

    to_bf16(o["values"], o["bits"])


def _right_to_bf16(o: Operands) -> Operands:
    from dlrmjit_kernels.precision import round_to_bf16

    _shape(o["bits"], *o["values"].shape)
    return {"bits": round_to_bf16(o["values"]).view(np.uint32) >> 16}


def _from_bf16(o: Operands) -> Any:
    from dlrmjit_kernels.matrix.bf16_bits import from_bf16

    from_bf16(o["bits"], o["values"])


def _right_from_bf16(o: Operands) -> Operands:
    _shape(o["values"], *o["bits"].shape)
    return {"values": (o["bits"].astype(np.uint32) << 16).view(np.float32)}


def _dropout(o: Operands) -> Any:
    from dlrmjit_kernels.layers.dropout import dropout

    dropout(_view(o["x"]), _view(o["y"]), 0.0, 1)


def _right_dropout(o: Operands) -> Operands:
    _shape(o["y"], *o["x"].shape)
    return {"y": _d(o["x"])}


def _moments(o: Operands) -> Any:
    from dlrmjit_kernels.layers.batch_norm import column_moments

    column_moments(_view(o["x"]), o["mean"], o["variance"])


def _right_moments(o: Operands) -> Operands:
    x = _d(o["x"])
    assert x.ndim == 2
    assert len(x)
    for other in (o["mean"], o["variance"]):
        _shape(other, x.shape[1])
    return {"mean": x.mean(0), "variance": x.var(0)}


def _normalise(o: Operands) -> Any:
    from dlrmjit_kernels.layers.batch_norm import normalise_relu

    normalise_relu(_view(o["x"]), _view(o["y"]), o["scale"], o["shift"])


def _right_normalise(o: Operands) -> Operands:
    x, scale, shift = _d(o["x"]), _d(o["scale"]), _d(o["shift"])
    for other in (scale, shift):
        _shape(other, x.shape[1])
    _shape(o["y"], *x.shape)
    return {"y": np.maximum(x * scale + shift, 0)}


def _batch_norm(o: Operands) -> Any:
    from dlrmjit_kernels.layers.batch_norm import batch_norm_backward

    matrices = (_view(o[name]) for name in ("x", "y", "dy"))
    vectors = (o[name] for name in ("mean", "inverse", "gamma", "dgamma", "dbeta"))
    batch_norm_backward(*matrices, *vectors)


def _right_batch_norm(o: Operands) -> Operands:
    x, y, dy = (_d(o[name]) for name in ("x", "y", "dy"))
    mean, inverse, gamma = (_d(o[name]) for name in ("mean", "inverse", "gamma"))
    for other in (y, dy):
        _shape(other, *x.shape)
    for other in (mean, inverse, gamma, o["dgamma"], o["dbeta"]):
        _shape(other, x.shape[1])
    g, centred = dy * (y > 0), (x - mean) * inverse
    dbeta, dgamma = g.sum(0), (g * centred).sum(0)
    dx = gamma * inverse * (g - dbeta / len(x) - centred * dgamma / len(x))
    return {"dbeta": dbeta, "dgamma": dgamma, "dy": dx}


def _sums(o: Operands) -> Any:
    from dlrmjit_kernels.layers.batch_norm import gradient_sums

    return gradient_sums(_view(o["x"]), _view(o["y"]), _view(o["dy"]), o["mean"])


def _right_sums(o: Operands) -> Operands:
    x, y, dy, mean = (_d(o[name]) for name in ("x", "y", "dy", "mean"))
    for other in (y, dy):
        _shape(other, *x.shape)
    _shape(mean, x.shape[1])
    g = dy * (y > 0)
    return {"result": np.stack([g.sum(0), (g * (x - mean)).sum(0)])}


def _input_gradient(o: Operands) -> Any:
    from dlrmjit_kernels.layers.batch_norm import input_gradient

    matrices = (_view(o[name]) for name in ("x", "y", "dy"))
    vectors = (o[name] for name in ("mean", "inverse", "gamma", "sums"))
    input_gradient(*matrices, *vectors, rows=N)


def _right_input_gradient(o: Operands) -> Operands:
    x, y, dy = (_d(o[name]) for name in ("x", "y", "dy"))
    mean, inverse, gamma, sums = (_d(o[name]) for name in ("mean", "inverse", "gamma", "sums"))
    for other in (y, dy):
        _shape(other, *x.shape)
    for other in (mean, inverse, gamma):
        _shape(other, x.shape[1])
    _shape(sums, 2, x.shape[1])
    centred = (dy * (y > 0)) - sums[0] / N - (x - mean) * inverse**2 * sums[1] / N
    return {"dy": gamma * inverse * centred}


def _layer_norm(o: Operands) -> Any:
    from dlrmjit_kernels.layers.layer_norm import layer_norm_forward

    vectors = (o[name] for name in ("gamma", "beta", "mean", "inverse"))
    layer_norm_forward(_view(o["x"]), _view(o["y"]), *vectors, 1e-5)


def _right_layer_norm(o: Operands) -> Operands:
    x, gamma, beta = (_d(o[name]) for name in ("x", "gamma", "beta"))
    _shape(o["y"], *x.shape)
    for other in (gamma, beta):
        _shape(other, x.shape[1])
    for other in (o["mean"], o["inverse"]):
        _shape(other, x.shape[0])
    mean, inverse = x.mean(1), 1 / np.sqrt(x.var(1) + 1e-5)
    unit = (x - mean[:, None]) * inverse[:, None]
    return {"y": unit * gamma + beta, "mean": mean, "inverse": inverse}


def _layer_norm_backward(o: Operands) -> Any:
    from dlrmjit_kernels.layers.layer_norm import layer_norm_backward

    vectors = (o[name] for name in ("gamma", "mean", "inverse", "dgamma", "dbeta"))
    layer_norm_backward(_view(o["x"]), _view(o["dy"]), *vectors)


def _right_layer_norm_backward(o: Operands) -> Operands:
    x, dy, gamma, mean, inverse = (_d(o[n]) for n in ("x", "dy", "gamma", "mean", "inverse"))
    _shape(dy, *x.shape)
    for other in (gamma, o["dgamma"], o["dbeta"]):
        _shape(other, x.shape[1])
    for other in (mean, inverse):
        _shape(other, x.shape[0])
    unit, g = (x - mean[:, None]) * inverse[:, None], dy * gamma
    dx = g - g.mean(1, keepdims=True) - unit * (g * unit).mean(1, keepdims=True)
    return {"dgamma": (dy * unit).sum(0), "dbeta": dy.sum(0), "dy": inverse[:, None] * dx}


def _ranking(o: Operands) -> Any:
    from dlrmjit_kernels.auc import ranking_metrics

    return np.array(ranking_metrics(o["scores"], o["positive"]))


def _right_ranking(o: Operands) -> Operands:
    scores, positive = _d(o["scores"]), o["positive"]
    assert positive.dtype == bool
    assert scores.ndim == 1
    _shape(positive, *scores.shape)
    wins = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    order = np.argsort(-scores, kind="stable")
    hits = positive[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return {"result": np.array([np.mean(wins), precision[hits].mean()])}


def _list_metrics(o: Operands) -> Any:
    from dlrmjit_kernels.list_metrics import list_metrics

    return np.nan_to_num(list_metrics(o["scores"], o["relevance"], o["offsets"]), nan=-2)


def _right_list_metrics(o: Operands) -> Operands:
    from dlrmjit_kernels.list_metrics import list_metrics

    scores, relevance, offsets = _d(o["scores"]), _d(o["relevance"]), o["offsets"]
    assert offsets.dtype == np.int64
    assert o["scores"].dtype == o["relevance"].dtype
    assert scores.ndim == 1
    _shape(relevance, *scores.shape)
    assert offsets[0] == 0
    assert offsets[-1] == len(scores)
    alone = [
        list_metrics(scores[a:b].copy(), relevance[a:b].copy(), np.array([0, b - a]))[0]
        for a, b in pairwise(offsets)
    ]
    return {"result": np.nan_to_num(np.array(alone), nan=-2)}


def _within_lists(o: Operands, rows: int) -> None:
    offsets = o["offsets"]
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == rows
    assert (np.diff(offsets) >= 0).all()


def _set_mean(o: Operands) -> Any:
    from dlrmjit_kernels.lists.set_mean import set_mean

    set_mean(o["x"], o["offsets"], o["y"])


def _right_set_mean(o: Operands) -> Operands:
    from dlrmjit.ops.reference.lists import set_mean_forward

    x = _d(o["x"])
    _shape(o["y"], *x.shape)
    _within_lists(o, len(x))
    return {"y": set_mean_forward(x, o["offsets"])}


def _pair_mean(o: Operands) -> Any:
    from dlrmjit_kernels.lists.pair_mean import pair_mean_forward

    pair_mean_forward(o["ab"], o["offsets"], [o["weight"]], [o["bias"]], o["y"])


def _right_pair_mean(o: Operands) -> Operands:
    from dlrmjit.ops.reference.lists import pair_mean_forward

    ab, weight, bias = (_d(o[name]) for name in ("ab", "weight", "bias"))
    _shape(weight, len(bias), ab.shape[1] // 2)
    _shape(o["y"], len(ab), len(bias))
    _within_lists(o, len(ab))
    return {"y": pair_mean_forward(ab, o["offsets"], weight, bias)}


def _attention(o: Operands) -> Any:
    from dlrmjit_kernels.lists.attention import attention_forward

    attention_forward(o["qkv"], o["offsets"], o["y"], np.empty(1 << 14, np.float32))


def _right_attention(o: Operands) -> Operands:
    from dlrmjit.ops.reference.lists import attention_forward

    qkv = _d(o["qkv"])
    _shape(o["y"], len(qkv), qkv.shape[1] // 3)
    _within_lists(o, len(qkv))
    return {"y": attention_forward(qkv, o["offsets"])}


def _add_norm(o: Operands) -> Any:
    from dlrmjit_kernels.lists.add_norm import add_norm_forward

    vectors = (o[name] for name in ("gamma", "beta", "y", "unit", "inverse"))
    add_norm_forward(o["a"], o["b"], *vectors, 1e-5)


def _right_add_norm(o: Operands) -> Operands:
    a, b, gamma, beta = (_d(o[name]) for name in ("a", "b", "gamma", "beta"))
    for other in (b, o["y"], o["unit"]):
        _shape(other, *a.shape)
    for other in (gamma, beta):
        _shape(other, a.shape[1])
    _shape(o["inverse"], len(a))
    x = a + b
    inverse = 1 / np.sqrt(x.var(1) + 1e-5)
    unit = (x - x.mean(1, keepdims=True)) * inverse[:, None]
    return {"y": unit * gamma + beta, "unit": unit, "inverse": inverse}


def _list_loss(o: Operands) -> Any:
    from dlrmjit_kernels.layers.list_loss import list_loss_gradient

    return list_loss_gradient("hinge", o["scores"], o["relevance"], o["offsets"], o["dscores"])


def _right_list_loss(o: Operands) -> Operands:
    scores, relevance, offsets = _d(o["scores"]), _d(o["relevance"]), o["offsets"]
    assert offsets.dtype == np.int64
    _shape(relevance, *scores.shape)
    _shape(o["dscores"], *scores.shape)
    assert offsets[0] == 0
    assert offsets[-1] == len(scores)
    loss, gradient = 0.0, np.zeros(scores.shape)
    for a, b in pairwise(offsets):
        better = relevance[a:b, None] > relevance[a:b]
        margins = np.maximum(1 - (scores[a:b, None] - scores[a:b]), 0) * better
        pairs, violated = better.sum() * (len(offsets) - 1), margins > 0
        loss += margins.sum() / pairs
        gradient[a:b] = (violated.sum(0) - 1.0 * violated.sum(1)) / pairs
    return {"result": np.float64(loss), "dscores": gradient}


def _list_ranks(o: Operands) -> Any:
    from dlrmjit_kernels.list_metrics import list_ranks

    return list_ranks(o["scores"], o["offsets"])


def _right_list_ranks(o: Operands) -> Operands:
    scores, offsets = _d(o["scores"]), o["offsets"]
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == len(scores)
    ranks = [np.argsort(np.argsort(-scores[a:b], kind="stable")) + 1 for a, b in pairwise(offsets)]
    return {"result": np.concatenate(ranks)}


# ---- embedding tables


def _lookup_operands(rng: np.random.Generator) -> Operands:
    lengths = rng.integers(0, 4, (S, N))
    lengths[0, 0] = 3
    ends = np.cumsum(lengths.reshape(-1)).reshape(S, N)
    offsets = np.concatenate([np.array([[0], [ends[0, -1]]]), ends], axis=1).astype(np.int64)
    count = int(ends[-1, -1])
    return {
        "indices": rng.integers(0, ROWS, count),
        "offsets": offsets,
        "weights": _f32(rng, count),
        "out": np.zeros((N, S, E), np.float32),
    }


def _bag_operands(rng: np.random.Generator) -> Operands:
    return {"table0": _f32(rng, ROWS, E), "table1": _f32(rng, ROWS, E), **_lookup_operands(rng)}


def _bag(o: Operands) -> Any:
    from dlrmjit_kernels import embedding_bag

    tables = [o["table0"], o["table1"]]
    arrays = (tables, o["indices"], o["offsets"])
    return embedding_bag(*arrays, out=o["out"], weights=o["weights"])


def _pooled(tables: Any, o: Operands, samples: int) -> Any:
    indices, offsets = o["indices"], o["offsets"]
    assert indices.dtype in (np.int32, np.int64)
    assert indices.dtype.isnative
    assert offsets.dtype == np.int64
    assert offsets.ndim == 2
    assert len(offsets) == len(tables)
    flat = offsets.reshape(-1)
    assert np.all(np.diff(flat) >= 0)
    assert flat[0] >= 0
    assert flat[-1] <= len(indices)
    weights = np.ones(len(indices)) if o["weights"] is None else _d(o["weights"])
    _shape(weights, len(indices))
    assert indices.ndim == 1
    assert offsets.shape[1] == samples + 1
    pooled = np.zeros((samples, len(tables), tables[0].shape[1]))
    for s, table in enumerate(tables):
        for n in range(samples):
            chosen = slice(offsets[s, n], offsets[s, n + 1])
            assert np.all(indices[chosen] >= 0)
            pooled[n, s] = (_d(table)[indices[chosen]] * weights[chosen, None]).sum(0)
    return pooled


def _right_bag(o: Operands) -> Operands:
    tables = [o["table0"], o["table1"]]
    assert all(table.dtype == np.float32 for table in tables)
    return _output(o, _pooled(tables, o, o["offsets"].shape[1] - 1))


def _tables() -> Any:
    from dlrmjit_kernels import EmbeddingTables

    tables = EmbeddingTables([ROWS] * S, E)
    for s in range(S):
        tables.table(s)[...] = np.arange(ROWS * E).reshape(ROWS, E) / 100 + s
    return tables


def _lookup(o: Operands) -> Any:
    _tables().lookup(o["indices"], o["offsets"], o["out"], "sum", o["weights"])


def _right_lookup(o: Operands) -> Operands:
    tables = _tables()
    pooled = _pooled([tables.table(s) for s in range(S)], o, o["out"].shape[0])
    _shape(o["out"], *pooled.shape)
    return {"out": pooled}


def _check(o: Operands) -> Any:
    _tables().check(o["indices"], o["offsets"])


def _right_check(o: Operands) -> Operands:
    tables = _tables()
    samples = o["offsets"].shape[1] - 1
    _pooled([tables.table(s) for s in range(S)], {**o, "weights": None}, samples)
    return {}


def _update_operands(rng: np.random.Generator) -> Operands:
    operands = _lookup_operands(rng)
    del operands["out"]
    return {**operands, "dY": _f32(rng, N, S, E)}


def _update(o: Operands) -> Any:
    from dlrmjit_kernels import MomentumRows

    tables, rule = _tables(), MomentumRows(0.5, momentum=0.0)
    state = tables.new_state(rule)
    arrays = (o["indices"], o["offsets"], o["dY"])
    tables.apply_gradient(*arrays, rule, state, "sum", o["weights"])
    return np.stack([tables.table(s) for s in range(S)])


def _dense_gradient(o: Operands) -> Any:
    tables = [_tables().table(s) for s in range(S)]
    dY = _d(o["dY"])
    _pooled(tables, o, dY.shape[0])
    _shape(dY, dY.shape[0], S, E)
    gradient = np.zeros((S, ROWS, E))
    weights = np.ones(len(o["indices"])) if o["weights"] is None else _d(o["weights"])
    for s in range(S):
        for n in range(dY.shape[0]):
            for i in range(o["offsets"][s, n], o["offsets"][s, n + 1]):
                gradient[s, o["indices"][i]] += weights[i] * dY[n, s]
    return gradient


def _right_update(o: Operands) -> Operands:
    tables = np.stack([_tables().table(s) for s in range(S)])
    return {"result": tables - 0.5 * _dense_gradient(o)}


def _accumulate_operands(rng: np.random.Generator) -> Operands:
    dense = {f"dense{s}": np.zeros((ROWS, E), np.float32) for s in range(S)}
    return {**_update_operands(rng), **dense}


def _accumulate(o: Operands) -> Any:
    dense = [o["dense0"], o["dense1"]]
    arrays = (o["indices"], o["offsets"], o["dY"])
    _tables().accumulate_gradient(*arrays, dense, "sum", o["weights"])


def _right_accumulate(o: Operands) -> Operands:
    gradient = _dense_gradient(o)
    for s in range(S):
        _shape(o[f"dense{s}"], ROWS, E)
    return {f"dense{s}": _d(o[f"dense{s}"]) + gradient[s] for s in range(S)}


def _pair_products(o: Operands) -> Any:
    from dlrmjit_kernels.layers.pair_vectors import pair_products

    pair_products(o["x"], o["sums"], o["y"])


def _right_pair_products(o: Operands) -> Operands:
    x = _d(o["x"])
    n, _, e = x.shape
    _shape(o["sums"], n, e)
    products = (x.sum(1) ** 2 - (x**2).sum(1)) / 2
    if o["y"].shape == (n, 1):
        products = products.sum(1, keepdims=True)
    _shape(o["y"], *products.shape)
    return {"sums": x.sum(1), "y": products}


def _pair_gradients(o: Operands) -> Any:
    from dlrmjit_kernels.layers.pair_vectors import pair_gradients

    pair_gradients(o["x"], o["sums"], o["dy"], o["dx"])


def _right_pair_gradients(o: Operands) -> Operands:
    x, sums, dy = (_d(o[name]) for name in ("x", "sums", "dy"))
    n, _, e = x.shape
    _shape(sums, n, e)
    assert dy.shape in ((n, 1), (n, e))
    _shape(o["dx"], *x.shape)
    return {"dx": dy[:, None] * (sums[:, None] - x)}


_SLOTS = ((0, 1), (2,))  # two tables are multiplied, one is copied


def _combine(o: Operands) -> Any:
    from dlrmjit_kernels.embedding.combine import bind_combine

    bind_combine(o["pooled"], o["out"], _SLOTS, "mult")()


def _right_combine(o: Operands) -> Operands:
    pooled = _d(o["pooled"])
    n, tables, e = pooled.shape
    assert tables > 2
    columns = np.stack([pooled[:, 0] * pooled[:, 1], pooled[:, 2]], axis=1)
    _shape(o["out"], n, 2, o["out"].shape[2])
    assert o["out"].shape[2] <= e  # tables may be wider
    return {"out": columns[:, :, : o["out"].shape[2]]}


def _combine_gradients(o: Operands) -> Any:
    from dlrmjit_kernels.embedding.combine import bind_combine_gradients

    bind_combine_gradients(o["dout"], o["pooled"], o["dpooled"], _SLOTS, "mult")()


def _right_combine_gradients(o: Operands) -> Operands:
    dout, pooled = _d(o["dout"]), _d(o["pooled"])
    n, tables, e = pooled.shape
    assert tables > 2
    _shape(dout, n, 2, dout.shape[2])
    assert dout.shape[2] <= e
    _shape(o["dpooled"], *pooled.shape)
    dpooled, left = np.array(o["dpooled"], np.float64), slice(dout.shape[2])
    parts = dout[:, 0] * pooled[:, 1, left], dout[:, 0] * pooled[:, 0, left], dout[:, 1]
    dpooled[:, :3, left] = np.stack(parts, axis=1)
    return {"dpooled": dpooled}


def _arrays(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Operands]:
    return lambda rng: {name: _f32(rng, *shape) for name, shape in shapes.items()}


def _moment_operands(rng: np.random.Generator) -> Operands:
    return {"x": _f32(rng, N, K), "mean": np.zeros(K), "variance": np.zeros(K)}


def _batch_norm_operands(rng: np.random.Generator) -> Operands:
    matrices = {name: _f32(rng, N, K) for name in ("x", "y", "dy")}
    moments = {name: rng.random(K) for name in ("mean", "inverse")}
    return {**matrices, **moments, **{v: _f32(rng, K) for v in ("gamma", "dgamma", "dbeta")}}


def _gradient_operands(rng: np.random.Generator) -> Operands:
    matrices = {name: _f32(rng, N, K) for name in ("x", "y", "dy")}
    return matrices | {"mean": rng.standard_normal(K)}


def _ranking_operands(rng: np.random.Generator) -> Operands:
    return {"scores": _f32(rng, 9), "positive": np.arange(9) % 3 == 0}


def _list_operands(rng: np.random.Generator) -> Operands:
    relevance = (np.arange(9) % 3).astype(np.float32)
    return {"scores": _f32(rng, 9), "relevance": relevance, "offsets": np.array([0, 4, 9])}


def _list_loss_operands(rng: np.random.Generator) -> Operands:
    return _list_operands(rng) | {"dscores": _f32(rng, 9)}


def _list_score_operands(rng: np.random.Generator) -> Operands:
    return {"scores": _f32(rng, 9), "offsets": np.array([0, 4, 9])}


PAIRS = F * (F - 1) // 2
FUNCTIONS = [
    Function("gemm", _arrays(a=(N, C), b=(C, K), out=(N, K)), ("out",), _gemm, _right_gemm),
    Function(
        "fc_forward",
        _arrays(x=(N, C), w=(C, K), b=(K,), y=(N, K)),
        ("y",),
        _forward,
        _right_forward,
    ),
    Function(
        "fc_backward_data",
        _arrays(dz=(N, K), w=(C, K), dx=(N, C), mask=(N, C)),
        ("dx",),
        _backward_data,
        _right_backward_data,
    ),
    Function(
        "fc_backward_weights",
        _arrays(x=(N, C), dz=(N, K), dw=(C, K), db=(K,)),
        ("dw", "db"),
        _backward_weights,
        _right_backward_weights,
    ),
    Function("Matrix", _arrays(data=(96,)), (), _matrix, _right_matrix),
    Function(
        "Matrix.assign", _arrays(data=(N * C,), array=(N, C)), ("data",), _assign, _right_assign
    ),
    Function(
        "SplitWeights", _arrays(values=(C, K), into=(C * 32,)), ("into",), _upcast, _right_upcast
    ),
    Function(
        "interaction_forward",
        _arrays(features=(N, F, E), out=(N, E + PAIRS)),
        ("out",),
        _interaction,
        _right_interaction,
    ),
    Function(
        "interaction_backward",
        _arrays(features=(N, F, E), dout=(N, E + PAIRS), dfeatures=(N, F, E)),
        ("dfeatures",),
        _interaction_backward,
        _right_interaction_backward,
    ),
    Function(
        "pair_products",
        _arrays(x=(N, F, E), sums=(N, E), y=(N, 1)),
        ("sums", "y"),
        _pair_products,
        _right_pair_products,
    ),
    Function(
        "pair_gradients",
        _arrays(x=(N, F, E), sums=(N, E), dy=(N, E), dx=(N, F, E)),
        ("dx",),
        _pair_gradients,
        _right_pair_gradients,
    ),
    Function(
        "bind_combine",
        _arrays(pooled=(N, 3, E), out=(N, 2, E)),
        ("out",),
        _combine,
        _right_combine,
    ),
    Function(
        "bind_combine_gradients",
        _arrays(dout=(N, 2, E), pooled=(N, 3, E), dpooled=(N, 3, E)),
        ("dpooled",),
        _combine_gradients,
        _right_combine_gradients,
    ),
    Function(
        "probabilities", _arrays(logits=(9,), p=(9,)), ("p",), _probabilities, _right_probabilities
    ),
    Function(
        "loss_forward", _arrays(logits=(9,), targets=(9,)), (), _loss_forward, _right_loss_forward
    ),
    Function(
        "loss_gradient",
        _arrays(logits=(9,), targets=(9,), p=(9,), dlogits=(9,)),
        ("p", "dlogits"),
        _loss_gradient,
        _right_loss_gradient,
    ),
    Function("sgd_step", _arrays(p=(33,), g=(33,)), ("p",), _sgd, _right_sgd),
    Function("sgd_step of SplitWeights", _split_gradient, (), _split_sgd, _right_split_sgd),
    Function(
        "adagrad_step",
        lambda rng: {"p": _f32(rng, 33), "g": _f32(rng, 33), "state": np.ones(33, np.float32)},
        ("p", "state"),
        _adagrad,
        _right_adagrad,
    ),
    Function(
        "relu_backward",
        _arrays(y=(N, K), dy=(N, K), dx=(N, K)),
        ("dx",),
        _relu_backward,
        _right_relu_backward,
    ),
    Function("scale", _arrays(x=(33,)), ("x",), _scale, _right_scale),
    Function("sum_of_squares", _arrays(x=(N, K)), (), _sum_of_squares, _right_sum_of_squares),
    Function("to_bf16", _bf16_operands, ("bits",), _to_bf16, _right_to_bf16),
    Function("from_bf16", _bf16_operands, ("values",), _from_bf16, _right_from_bf16),
    Function("dropout", _arrays(x=(N, K), y=(N, K)), ("y",), _dropout, _right_dropout),
    Function("column_moments", _moment_operands, ("mean", "variance"), _moments, _right_moments),
    Function(
        "normalise_relu",
        _arrays(x=(N, K), y=(N, K), scale=(K,), shift=(K,)),
        ("y",),
        _normalise,
        _right_normalise,
    ),
    Function(
        "batch_norm_backward",
        _batch_norm_operands,
        ("dy", "dgamma", "dbeta"),
        _batch_norm,
        _right_batch_norm,
    ),
    Function("gradient_sums", _gradient_operands, (), _sums, _right_sums),
    Function(
        "input_gradient",
        lambda rng: (
            _gradient_operands(rng)
            | {
                "inverse": np.abs(rng.standard_normal(K)) + 0.5,
                "gamma": _f32(rng, K),
                "sums": rng.standard_normal((2, K)),
            }
        ),
        ("dy",),
        _input_gradient,
        _right_input_gradient,
    ),
    Function(
        "layer_norm_forward",
        lambda rng: {
            "x": _f32(rng, N, K),
            "y": _f32(rng, N, K),
            "gamma": _f32(rng, K),
            "beta": _f32(rng, K),
            "mean": np.zeros(N),
            "inverse": np.zeros(N),
        },
        ("y", "mean", "inverse"),
        _layer_norm,
        _right_layer_norm,
    ),
    Function(
        "layer_norm_backward",
        lambda rng: {
            "x": _f32(rng, N, K),
            "dy": _f32(rng, N, K),
            "gamma": _f32(rng, K),
            "mean": rng.standard_normal(N),
            "inverse": np.abs(rng.standard_normal(N)) + 0.5,
            "dgamma": _f32(rng, K),
            "dbeta": _f32(rng, K),
        },
        ("dy", "dgamma", "dbeta"),
        _layer_norm_backward,
        _right_layer_norm_backward,
    ),
    Function("ranking_metrics", _ranking_operands, (), _ranking, _right_ranking),
    Function("list_metrics", _list_operands, (), _list_metrics, _right_list_metrics),
    Function("list_loss_gradient", _list_loss_operands, ("dscores",), _list_loss, _right_list_loss),
    Function(
        "set_mean",
        lambda rng: {"x": _f32(rng, N, K), "offsets": _LISTS.copy(), "y": _f32(rng, N, K)},
        ("y",),
        _set_mean,
        _right_set_mean,
    ),
    Function(
        "pair_mean_forward",
        lambda rng: {
            "ab": _f32(rng, N, 2 * C),
            "offsets": _LISTS.copy(),
            "weight": _f32(rng, K, C),
            "bias": _f32(rng, K),
            "y": _f32(rng, N, K),
        },
        ("y",),
        _pair_mean,
        _right_pair_mean,
    ),
    Function(
        "attention_forward",
        lambda rng: {
            "qkv": _f32(rng, N, 3 * K),
            "offsets": _LISTS.copy(),
            "y": _f32(rng, N, K),
        },
        ("y",),
        _attention,
        _right_attention,
    ),
    Function(
        "add_norm_forward",
        lambda rng: {
            **{name: _f32(rng, N, K) for name in ("a", "b", "y", "unit")},
            **{name: _f32(rng, K) for name in ("gamma", "beta")},
            "inverse": _f32(rng, N),
        },
        ("y", "unit", "inverse"),
        _add_norm,
        _right_add_norm,
    ),
    Function("list_ranks", _list_score_operands, (), _list_ranks, _right_list_ranks),
    Function("embedding_bag", _bag_operands, ("out",), _bag, _right_bag),
    Function("lookup", _lookup_operands, ("out",), _lookup, _right_lookup),
    Function("check", _lookup_operands, (), _check, _right_check),
    Function("apply_gradient", _update_operands, (), _update, _right_update),
    Function(
        "accumulate_gradient",
        _accumulate_operands,
        ("dense0", "dense1"),
        _accumulate,
        _right_accumulate,
    ),
]
