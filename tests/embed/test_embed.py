"""Vectors of images by networks of torchvision's names: values, folded norms, wrong files."""

import os
import re

import numpy as np
import pytest
from dlrmjit_kernels import set_threads
from dlrmjit_kernels.runtime.threads import get_threads
from safetensors.numpy import save_file

import dlrmjit
from dlrmjit.architecture import Architecture, Dense, Images, Mlp, ResNet
from dlrmjit.architecture.nodes.resnet import convolutions
from dlrmjit.cli.images.embed import DEVIATION, MEAN, main
from dlrmjit.embed.encoder import Encoder
from dlrmjit.embed.weights import read_network
from dlrmjit.model.graph import Graph
from dlrmjit.ops.reference.backend import ReferenceBackend

SIZE = (3, 33, 35)
NAMES = {
    *("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"),
    *("layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var"),
    *("layer4.1.bn2.bias", "fc.weight", "fc.bias", "bn1.num_batches_tracked"),
}


def weights(depth, seed=0):
    """Random tensors of a network, by torchvision's names."""
    rng, tensors = np.random.default_rng(seed), {}
    last = 512
    for conv in convolutions(depth):
        k, c, r, s = conv.weight_shape
        values = rng.standard_normal((k, c, r, s)) * np.sqrt(1 / (c * r * s))
        tensors[f"{conv.name}.weight"] = values.astype(np.float32)
        tensors[f"{conv.norm}.weight"] = rng.uniform(0.5, 1.5, k).astype(np.float32)
        tensors[f"{conv.norm}.running_var"] = rng.uniform(0.5, 1.5, k).astype(np.float32)
        for part in ("bias", "running_mean"):
            tensors[f"{conv.norm}.{part}"] = rng.normal(0, 0.1, k).astype(np.float32)
        tensors[f"{conv.norm}.num_batches_tracked"] = np.array(3)
        last = k if "downsample" not in conv.name else last
    tensors["fc.weight"] = rng.normal(0, 0.05, (10, last)).astype(np.float32)
    tensors["fc.bias"] = rng.normal(0, 0.05, 10).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Weights of a ResNet-18 and five images."""
    folder = tmp_path_factory.mktemp("embed")
    save_file(weights(18), folder / "weights.safetensors")
    images = np.random.default_rng(1).standard_normal((5, *SIZE)).astype(np.float32)
    np.save(folder / "images.npy", images)
    return folder


def run(folder, *words, weights="weights.safetensors", images="images.npy", out="items.npy"):
    target = folder / out
    target.unlink(missing_ok=True)
    return main([str(folder / weights), str(folder / images), "--out", str(target), *words])


def test_the_names_are_those_of_torchvision():
    assert set(weights(18)) >= NAMES
    assert len(weights(18)) == 122  # len(torchvision.models.resnet18().state_dict())
    assert len(weights(50)) == 320


BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def timm_names(depth):
    """Names that timm's ResNet has by its constructor, of blocks and of shortcuts."""
    convs = 3 if depth >= 50 else 2
    pairs = [("conv1", "bn1")]
    for layer, count in enumerate(BLOCKS[depth], 1):
        for block in range(count):
            path = f"layer{layer}.{block}"
            pairs += [(f"{path}.conv{k}", f"{path}.bn{k}") for k in range(1, convs + 1)]
            if block == 0 and (layer > 1 or depth >= 50):
                pairs.append((f"{path}.downsample.0", f"{path}.downsample.1"))
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = {f"{norm}.{part}" for _, norm in pairs for part in parts}
    return norms | {f"{conv}.weight" for conv, _ in pairs} | {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("depth", BLOCKS)
def test_the_names_are_those_of_timm(depth):
    assert set(weights(depth)) == timm_names(depth)


@pytest.mark.parametrize("words", [(), ("--logits",), ("--backend=reference",)])
def test_vectors_are_those_of_the_network_with_its_norms(home, words):
    assert run(home, *words, "--batch-size=2") == 0
    found, images = np.load(home / "items.npy"), np.load(home / "images.npy")
    expected = with_norms(weights(18), 10 if words == ("--logits",) else 0, images)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def with_norms(tensors, width, images):
    """What a network computes in float64 with norms of their own, instead of folded ones."""
    n = len(images)
    node = ResNet("tower", ("image",), 18, width or 512)
    model = dlrmjit.Model(
        Architecture(
            (
                Dense("pixels", features=images[0].size),
                Images("image", ("pixels",), SIZE),
                node,
                Mlp("logit", ("tower",), (1,), last="none"),
            )
        ),
        backend=ReferenceBackend(np.float64),
    )
    state = model.state_dict()
    if not width:
        tensors = tensors | {"fc.weight": np.eye(512), "fc.bias": np.zeros(512)}
    for name, values in tensors.items():
        if not name.endswith("num_batches_tracked"):
            state[f"tower.{name}"] = values
    model.load_state(state)
    graph = Graph(model, n)
    graph.load(dlrmjit.Batch(images.reshape(n, -1), [], [], np.zeros(n)))
    graph.tape.forward()
    return graph.values["tower"].data


def test_depth_50_in_both_backends(tmp_path):
    save_file(weights(50), tmp_path / "weights.safetensors")
    network = read_network(tmp_path / "weights.safetensors")
    images = np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)
    found, expected = (
        Encoder(network.node, network.parameters, images.shape[1:], backend).encode(images)
        for backend in ("jit", "reference")
    )
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_bits_depend_neither_on_threads_nor_on_the_batch(home):
    network = read_network(home / "weights.safetensors")
    images, before, results = np.load(home / "images.npy"), get_threads(), set()
    try:
        for threads in (1, 2, 4):
            set_threads(threads)
            encoder = Encoder(network.node, network.parameters, SIZE)
            for parts in ([5], [2, 3], [1, 1, 3]):
                each = np.split(images, np.cumsum(parts)[:-1])
                results.add(b"".join(encoder.encode(part).tobytes() for part in each))
    finally:
        set_threads(before)
    assert len(results) == 1


def test_a_pipe_is_refused_and_not_waited_for(home, capsys):
    os.mkfifo(home / "pipe")
    assert run(home, weights="pipe") == 2
    assert run(home, images="pipe") == 2
    assert capsys.readouterr().err.count("pipe is a pipe, socket or device") == 2


def test_uint8_images_are_normalised_if_asked(home):
    pixels = np.random.default_rng(3).integers(0, 256, (2, *SIZE)).astype(np.uint8)
    np.save(home / "pixels.npy", pixels)
    mean, deviation = (np.array(x)[:, None, None] for x in (MEAN, DEVIATION))
    np.save(home / "floats.npy", (pixels / 255 - mean) / deviation)
    assert run(home, "--imagenet", images="pixels.npy") == 0
    found = np.load(home / "items.npy")
    assert run(home, images="floats.npy") == 0
    np.testing.assert_allclose(found, np.load(home / "items.npy"), rtol=1e-4, atol=1e-4)


def changed(**tensors):
    """The tensors of a ResNet-18 with others; None leaves one out."""
    every = weights(18) | {name.replace("__", "."): value for name, value in tensors.items()}
    return {name: value for name, value in every.items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": np.zeros(3, np.float32)}, "no conv1.weight"),
        (changed(layer1__0__conv2__weight=None), "lacks layer1.0.conv2.weight"),
        (changed(conv1__0__weight=np.zeros(3, np.float32)), "has conv1.0.weight, which"),
        (changed(bn1__bias=np.zeros(7, np.float32)), r"bn1.bias of shape \(7,\)"),
        (changed(bn1__bias=np.full(64, np.nan, np.float32)), "bn1.bias that are not finite"),
        (changed(bn1__bias=np.zeros(64, np.int32)), "bn1.bias as I32"),
        (changed(bn1__running_var=np.full(64, -1, np.float32)), "negative variances"),
        (changed(conv1__weight=np.zeros((64, 3), np.float32)), "conv1.weight of shape"),
        (changed(layer1__2__conv1__weight=np.zeros(3, np.float32)), "layers of"),
        # timm's networks with squeeze and excitation, pooled shortcuts, group norms; prefixes
        (changed(layer1__0__se__fc1__weight=np.zeros(3, np.float32)), "has layer1.0.se.fc1.weight"),
        (
            changed(layer2__0__downsample__2__bias=np.zeros(3, np.float32)),
            "downsample.2.bias, which",
        ),
        (changed(bn1__running_mean=None), "lacks bn1.running_mean"),
        (
            {f"module.{k}": v for k, v in weights(18).items()},
            "has module.bn1.bias, .* no conv1.weight",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(home, tensors, message, capsys):
    save_file(tensors, home / "wrong.safetensors")
    assert run(home, weights="wrong.safetensors") != 0
    text = capsys.readouterr().err
    assert re.search(message, text), text
    assert "torchvision or timm" in text
    assert text.count("\n") <= 2
    assert not (home / "items.npy").exists()


def test_logits_need_the_last_layer(home, capsys):
    save_file(changed(fc__bias=None), home / "wrong.safetensors")
    assert run(home, weights="wrong.safetensors") == 0
    assert run(home, "--logits", weights="wrong.safetensors") != 0
    assert "lacks fc.bias" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "words", "message"),
    [
        (np.zeros((2, 33, 35, 3), np.float32), (), "expected images (N, 3, H, W)"),
        (np.zeros((3, 33, 35), np.float32), (), "expected images (N, 3, H, W)"),
        (np.zeros((2, *SIZE), np.uint8), (), "--imagenet"),
        (np.zeros((2, *SIZE), np.float32), ("--imagenet",), "uint8"),
        (np.full((2, *SIZE), np.nan, np.float32), (), "image 0 has numbers that are not finite"),
        (np.full((2, *SIZE), 1e300), (), "image 0 has numbers that are not finite"),
        (np.full((2, *SIZE), 1e38, np.float32), (), "no finite vectors"),
        (np.zeros((2, 3, 0, 5), np.float32), (), "images"),
    ],
)
def test_wrong_images_are_refused(home, images, words, message, capsys):
    np.save(home / "wrong.npy", images)
    assert run(home, *words, images="wrong.npy") != 0
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") <= 2
    assert not (home / "items.npy").exists()


def test_no_images_have_no_vectors(home):
    np.save(home / "none.npy", np.zeros((0, *SIZE), np.float32))
    assert run(home, images="none.npy") == 0
    assert np.load(home / "items.npy").shape == (0, 512)


def test_wrong_files_are_refused(home, capsys):
    assert run(home, weights="images.npy") != 0
    assert run(home, images="weights.safetensors") != 0
    assert run(home, weights="missing") != 0
    assert run(home, out="items.csv") != 0
    assert run(home) == 0
    with_it = [str(home / "weights.safetensors"), str(home / "images.npy"), "--out"]
    assert main([*with_it, str(home / "items.npy")]) != 0
    assert "exists" in capsys.readouterr().err
