"""Checkpoints of other models are refused by the name of what differs."""

import hashlib
import json

import numpy as np
import pytest

import dlrmjit
from dlrmjit.checkpoint import check_config, check_parameters, open_checkpoint, save_checkpoint
from dlrmjit.checkpoint.manifest import read_manifest
from dlrmjit.errors import CheckpointError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.persistence import restore
from tests.builders import small_config

SHAPES = {"a": (2, 3), "b": (4,)}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": (2, 3)}, "lacks b"),
        ({**SHAPES, "c": (1,)}, "has unexpected c"),
        ({"a": (2, 4), "b": (4,)}, r"has a \(2, 4\), not \(2, 3\)"),
        ({"a": (2, 3), "c": (4,)}, "lacks b; it has unexpected c"),
    ],
)
def test_parameters_that_are_missing_unexpected_or_misshapen_are_named(stored, message):
    with pytest.raises(CheckpointError, match=message):
        check_parameters("m", stored, SHAPES)
    check_parameters("m", SHAPES, SHAPES)


def test_each_key_of_a_configuration_that_differs_is_named():
    check_config("m", {"x": [1, 2]}, {"x": (1, 2)})
    with pytest.raises(CheckpointError, match=r"x is 1-2 in the checkpoint, but 1-3 is asked"):
        check_config("m", {"x": [1, 2]}, {"x": (1, 3)})
    with pytest.raises(CheckpointError, match=r"y is 'dot' in the checkpoint, but None is asked"):
        check_config("m", {"x": 1, "y": "dot"}, {"x": 1})


EQUAL_SHAPES = {"table_rows": (7, 9, 30), "embedding_dim": 2, "mlp_bottom": (4, 2)}


@pytest.mark.parametrize("name", ["m", "m.pt"])
@pytest.mark.parametrize("change", [{"interaction": "cat"}, {"dropout": 0.5}], ids=repr)
def test_a_model_of_equal_shapes_but_another_configuration_is_refused(tmp_path, name, change):
    dlrmjit.save(DLRM(small_config(**EQUAL_SHAPES, **change)), tmp_path / name)
    model = DLRM(small_config(**EQUAL_SHAPES))
    before = model.state_dict()["top_l.0.weight"]
    with pytest.raises(CheckpointError, match=next(iter(change))):
        restore(model, tmp_path / name)
    assert np.array_equal(model.state_dict()["top_l.0.weight"], before)


@pytest.mark.parametrize("name", ["m", "m.pt"])
def test_a_checkpoint_of_more_layers_is_refused(tmp_path, name):
    dlrmjit.save(DLRM(small_config(mlp_bottom=(13, 6, 6))), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"unexpected bot_l\.2\.weight, bot_l\.2\.bias"):
        restore(DLRM(small_config(mlp_bottom=(13, 6))), tmp_path / name)


def test_every_flipped_bit_of_a_manifest_is_seen(tmp_path):
    save_checkpoint(tmp_path / "m", {"w": np.ones(3, "f4")}, model_config={"a": 1}, progress={})
    file = tmp_path / "m" / "manifest.json"
    original = file.read_bytes()
    seen = 0
    bits = range(0, 8 * len(original), 5)
    for bit in bits:
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            read_manifest(tmp_path / "m")
        except CheckpointError:
            seen += 1
    assert seen == len(bits)


def test_a_manifest_without_a_digest_is_read_as_older_versions_wrote_it(tmp_path):
    save_checkpoint(tmp_path / "m", {"w": np.ones(3, "f4")}, model_config={}, progress={"x": 1})
    file = tmp_path / "m" / "manifest.json"
    content = json.loads(file.read_text())
    digest = content.pop("manifest_sha256")
    text = file.read_text().replace(digest, "0" * 64)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    file.write_text(json.dumps(content))
    assert open_checkpoint(tmp_path / "m").progress == {"x": 1}
