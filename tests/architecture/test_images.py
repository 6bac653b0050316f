"""Nodes over images: gradients of a whole model, shapes, costs, refusals."""

import pytest

from dlrmjit.architecture import (
    Architecture,
    Concat,
    Convolution,
    Dense,
    Embedding,
    Flatten,
    Images,
    Interaction,
    Mlp,
    Pooling,
    ResNet,
)
from dlrmjit.errors import ConfigError
from dlrmjit.model.check import check_architecture
from dlrmjit.ops import get_backend


def network(*tower, size=(2, 8, 8), first=3):
    features = first + size[0] * size[1] * size[2]
    return Architecture(
        (
            Dense("dense", features=features),
            Images("images", ("dense",), size, first),
            *tower,
            Embedding("emb_l", rows=(5, 7), dim=4),
            Interaction("products", ("emb_l", "tower")),
            Mlp("top", ("products",), (1,), last="none"),
        )
    )


TOWER = (
    Convolution("conv1", ("images",), 3, padding=1, batch_norm=True),
    Pooling("pool1", ("conv1",)),
    Convolution("conv2", ("pool1",), 4, (2, 3), 2, activation="tanh"),
    Flatten("flat", ("conv2",)),
    Mlp("tower", ("flat",), (4,)),
)


def test_gradients_of_a_model_with_images():
    model = network(*TOWER)
    check_architecture(model, tolerance=1e-5)
    check_architecture(model, backend=get_backend("jit"), tolerance=1e-3)


def test_a_residual_network_has_the_sizes_of_its_authors():
    node, shapes = ResNet("tower", ("images",), 50, 1000), [(3, 224, 224)]
    assert node.shape(shapes) == (1000,)
    assert ResNet("tower", ("images",), 50).shape(shapes) == (2048,)
    assert ResNet("tower", ("images",), 34).shape(shapes) == (512,)
    parameters = sum(spec.elements for spec in node.parameters(shapes))
    assert parameters + sum(2 * norm.columns for norm in node.norms()) == 25_557_032
    assert round(node.flops(shapes, False).forward / 1e9, 2) == 8.18  # stride in the second
    assert Architecture.from_dict(network(*TOWER).to_dict()) == network(*TOWER)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (lambda: Images("x", ("dense",), (2, 8)), "positive size"),
        (lambda: Images("x", ("dense",), (2, 8, 0)), "positive size"),
        (lambda: Convolution("x", ("images",), 0), "positive filters"),
        (lambda: Convolution("x", ("images",), 3, (3, 3, 3)), "positive filters"),
        (lambda: Convolution("x", ("images",), 3, stride=0), "positive filters"),
        (lambda: Convolution("x", ("images",), 3, padding=-1), "padding from 0"),
        (lambda: Convolution("x", ("images",), 3, activation="silu"), "an activation of"),
        (lambda: Pooling("x", ("images",), -1), "positive window"),
        (lambda: Pooling("x", ("images",), (0, 2)), "positive window"),
        (lambda: Pooling("x", ("images",), 2, padding=2), "at most half"),
        (lambda: Pooling("x", ("images",), operation="sum"), "max or average"),
        (lambda: ResNet("x", ("images",), 20), "a depth of 18"),
        (lambda: ResNet("x", ("images",), 18, -1), "width from 0"),
    ],
)
def test_values_that_no_node_has_are_refused(node, message):
    with pytest.raises(ConfigError, match=message):
        node()


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ([Convolution("tower", ("images",), 4, 9)], "that windows of 9 x 9 pixels fit"),
        ([Flatten("flat", ("images",)), Pooling("tower", ("flat",))], "images as input"),
        ([Mlp("tower", ("images",), (4,))], "one matrix"),
        ([Concat("tower", ("images",))], "matrices or vectors"),
        ([Convolution("tower", ("images",), 4)], "vectors, or a matrix"),
        ([Flatten("tower", ("images",))], "vectors, or a matrix"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tower, message):
    with pytest.raises(ConfigError, match=message):
        network(*tower)


def test_images_need_as_many_columns():
    with pytest.raises(ConfigError, match="input of 131 columns"):
        Architecture((Dense("dense", features=130), Images("logit", ("dense",), (2, 8, 8), 3)))
