"""``.pt`` files without PyTorch: reading the reference program's, and writing files for it."""

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlrmjit.checkpoint import read_torch_file, write_torch_file
from dlrmjit.checkpoint.torch_format.pickle import Storage, StoredTensor, load_pickle
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import CheckpointError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.persistence import load, restore, save

GOLDEN = Path(__file__).parents[1] / "golden"
REFERENCE = GOLDEN / "reference_adagrad.pt"  # written by dlrm_s_pytorch.py under torch 2.13
OURS = GOLDEN / "written.pt"  # written by write_torch_file; torch 2.13 loaded it

# By the same program, with --qr-flag --qr-threshold=4 --qr-collisions=3 and tables of 9, 3 and 10
# rows (9, 5 and 10 for concat), and with --weighted-pooling=learned.
TABLES = {
    "reference_qr_mult.pt": {"qr_collisions": (3, 0, 3)},
    "reference_qr_concat.pt": {
        "table_rows": (9, 5, 10),
        "mlp_bottom": (2, 3, 8),
        "qr_collisions": (3, 3, 3),
        "qr_operation": "concat",
    },
    "reference_weighted_pooling.pt": {"learned_pooling": True},
}

FLOATS = st.floats(width=32, allow_nan=False)
MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=FLOATS
)


def small_state():
    return {
        "emb_l.0.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "bot_l.0.weight": np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2],
        "bot_l.0.bias": np.array([1.5, -2], np.float32),
    }


PROGRESS = {"iter": 5, "epoch": 1, "test_acc": np.float64(0.75), "test_auc": 0.5}


def test_a_file_of_the_reference_program_is_read():
    found = read_torch_file(REFERENCE)
    shapes = {name: array.shape for name, array in found.state.items()}
    assert shapes["emb_l.0.weight"] == (5, 2)
    assert shapes["top_l.0.weight"] == (3, 5)
    assert len(shapes) == 8
    top = np.array([[-0.5886942, -1.2216468, -0.2764079]], np.float32)
    np.testing.assert_allclose(found.state["top_l.2.weight"], top, rtol=1e-6)
    assert found.progress["iter"] == 2
    assert found.progress["test_acc"] == 0.375
    assert found.progress["train_loss"] == pytest.approx(0.20324618)
    assert found.optimizer["state"][7]["sum"] == pytest.approx(0.0558184)
    assert found.optimizer["param_groups"][0]["lr"] == 0.01


def names_of(path):
    """Names of tensors as a file of PyTorch has them."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        words = [word for _, word, _ in pickletools.genops(archive.read(pickled))]
    parameter = re.compile(r"(bot_l|emb_l|top_l)\.\d+\.\w+|v_W_l\.\d+")
    return [word for word in words if isinstance(word, str) and parameter.fullmatch(word)]


@pytest.mark.parametrize("name", TABLES)
def test_kinds_of_tables_are_read_and_written_as_the_reference_writes_them(name, tmp_path):
    values = {"table_rows": (9, 3, 10), "embedding_dim": 4, "mlp_bottom": (2, 3, 4)}
    config = ModelConfig(**{**values, "mlp_top": (5, 1), **TABLES[name]})
    model, theirs = DLRM(config, initialise=False), read_torch_file(GOLDEN / name).state
    restore(model, GOLDEN / name)
    stored = model.stored()
    assert set(stored) == set(theirs)
    assert all(np.array_equal(stored[key], array) for key, array in theirs.items())
    save(model, tmp_path / name)
    again = read_torch_file(tmp_path / name).state
    assert all(np.array_equal(again[key], array) for key, array in theirs.items())
    names = set(names_of(GOLDEN / name))
    assert set(names_of(tmp_path / name)) == names
    assert ("v_W_l.0" in names) == ("weighted" in name)
    assert ("emb_l.0.weight_q" in names) == ("qr" in name)


def test_a_file_that_does_not_say_how_vectors_are_combined_says_what_to_do():
    model = load(GOLDEN / "reference_qr_mult.pt")  # multiplied or added: the shapes are the same
    assert model.state_dict()["emb_l.0.weight_q"].shape == (3, 4)
    batch = Batch(np.zeros((1, 2)), [np.array([0])] * 3, [np.array([0])] * 3, np.zeros(1))
    with pytest.raises(CheckpointError, match="--load-model, --qr-flag"):
        model.predict_proba(batch)


def test_learned_weights_of_pooling_need_no_options():
    model = load(GOLDEN / "reference_weighted_pooling.pt")
    assert model.config.learned_pooling
    assert model.state_dict()["emb_l.0.pooling"].shape == (9, 1)


def test_parameters_are_mapped_not_read():
    table = read_torch_file(REFERENCE).state["emb_l.0.weight"]
    while not isinstance(table, np.memmap):
        table = getattr(table.base, "base", table.base)
    assert not table.flags.writeable


def test_written_files_are_the_bytes_that_torch_loaded(tmp_path):
    write_torch_file(tmp_path / OURS.name, small_state(), PROGRESS)
    assert (tmp_path / OURS.name).read_bytes() == OURS.read_bytes()


@given(st.dictionaries(st.sampled_from(["emb_l.0.weight", "top_l.0.weight", "x"]), MATRICES))
def test_written_files_are_read_back(state):
    path = GOLDEN.parent / ".written.pt"
    try:
        write_torch_file(path, state, PROGRESS, learning_rate=0.5)
        found = read_torch_file(path)
        assert set(found.state) == set(state)
        assert all(np.array_equal(found.state[name], state[name]) for name in state)
        assert found.progress["nbatches"] == 0
        assert found.progress["test_acc"] == 0.75
        assert found.optimizer["param_groups"][0]["lr"] == 0.5
    finally:
        path.unlink()


def test_nested_optimizer_state_is_read_back(tmp_path):
    nested = {"state": {0: {"sum": np.ones((3, 2), "f4"), "step": np.array(2.0)}}, "n": [1, None]}
    write_torch_file(tmp_path / "a.pt", small_state(), {}, nested)
    found = read_torch_file(tmp_path / "a.pt").optimizer
    assert np.array_equal(found["state"][0]["sum"], np.ones((3, 2)))
    assert found["state"][0]["step"] == 2
    assert found["n"] == [1, None]


def test_storages_are_aligned_and_named_as_in_pytorch(tmp_path):
    write_torch_file(tmp_path / "a.pt", small_state(), {})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        names = archive.namelist()
        codes = pickletools.genops(archive.read("a/data.pkl"))
    assert names == ["a/data.pkl", "a/byteorder", "a/data/0", "a/data/1", "a/data/2", "a/version"]
    found = {argument for code, argument, _ in codes if code.name == "GLOBAL"}
    assert found == {
        "collections OrderedDict",
        "torch FloatStorage",
        "torch._utils _rebuild_tensor_v2",
    }
    for array in read_torch_file(tmp_path / "a.pt").state.values():
        assert array.ctypes.data % 64 == 0


def test_an_unwritable_value_leaves_the_old_file(tmp_path):
    write_torch_file(tmp_path / "a.pt", small_state(), {})
    before = (tmp_path / "a.pt").read_bytes()
    for progress in ({"x": object()}, {"x": np.zeros(2, complex)}, {"x": print}):
        with pytest.raises(CheckpointError, match="cannot be written"):
            write_torch_file(tmp_path / "a.pt", small_state(), progress)
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_torch_file(tmp_path / "no" / "a.pt", small_state(), {})


def repack(target, source=REFERENCE, compress=zipfile.ZIP_STORED, edit=lambda name, data: data):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            data = edit(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def test_a_compressed_archive_is_read(tmp_path):
    found = read_torch_file(repack(tmp_path / "a.pt", compress=zipfile.ZIP_DEFLATED)).state
    for name, array in read_torch_file(REFERENCE).state.items():
        assert np.array_equal(found[name], array)


def test_a_big_endian_archive_is_read(tmp_path):
    def swap(name, data):
        if name.endswith("byteorder"):
            return b"big"
        return np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data

    found = read_torch_file(repack(tmp_path / "a.pt", edit=swap)).state
    for name, array in read_torch_file(REFERENCE).state.items():
        assert np.array_equal(found[name], array)


def test_names_of_a_parallel_wrapper_are_shortened(tmp_path):
    state = {f"module.{name}": array for name, array in small_state().items()}
    write_torch_file(tmp_path / "a.pt", state, {})
    assert list(read_torch_file(tmp_path / "a.pt").state) == list(small_state())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}.", "bare pickle"),
        (b"hello", "not a file saved by PyTorch"),
        (b"", "not a file saved by PyTorch"),
        (REFERENCE.read_bytes()[:3000], "truncated or damaged"),
    ],
)
def test_files_that_pytorch_did_not_save_are_refused(tmp_path, content, message):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(tmp_path / "a.pt")


def test_missing_files_and_foreign_archives_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch_file(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_torch_file(tmp_path)
    np.savez(tmp_path / "b.npz", x=np.zeros(2))
    with pytest.raises(CheckpointError, match="without a PyTorch pickle"):
        read_torch_file(tmp_path / "b.npz")


def test_damaged_archives_are_refused(tmp_path):
    def without(ending):
        return lambda name, data: None if name.endswith(ending) else data

    with pytest.raises(CheckpointError, match="lacks data/3"):
        read_torch_file(repack(tmp_path / "a.pt", edit=without("data/3")))
    with pytest.raises(CheckpointError, match="too few for"):
        read_torch_file(repack(tmp_path / "b.pt", edit=lambda n, d: d[:-4] if "/data/" in n else d))
    with pytest.raises(CheckpointError, match="truncated"):
        read_torch_file(repack(tmp_path / "c.pt", edit=lambda n, d: d[:99] if "pkl" in n else d))


def test_a_model_without_state_or_of_integers_is_refused(tmp_path):
    bare = pickle.dumps({"weights": OrderedDict()}, protocol=2)
    edit = lambda name, data: bare if name.endswith(".pkl") else data  # noqa: E731
    with pytest.raises(CheckpointError, match="neither a state_dict"):
        read_torch_file(repack(tmp_path / "a.pt", edit=edit))
    write_torch_file(tmp_path / "b.pt", {"emb_l.0.weight": np.zeros((2, 2), np.int64)}, {})
    with pytest.raises(CheckpointError, match=r"emb_l.0.weight is int64"):
        read_torch_file(tmp_path / "b.pt")


@pytest.mark.parametrize("function", [print, eval, np.load, np.zeros(2), Path])
def test_a_pickle_that_calls_other_functions_is_refused(function):
    with pytest.raises(CheckpointError):
        load_pickle(pickle.dumps({"state_dict": function}, protocol=2), "a.pt")


@given(st.binary(max_size=60))
def test_any_other_bytes_raise_a_checkpoint_error(data):
    with suppress(CheckpointError):
        load_pickle(b"\x80\x02" + data, "a.pt")


INTEGERS = st.integers(-3, 12)


@given(INTEGERS, st.lists(st.tuples(INTEGERS, INTEGERS), max_size=3))
def test_a_tensor_never_exceeds_its_storage(offset, axes):
    shape, strides = tuple(n for n, _ in axes), tuple(s for _, s in axes)
    try:
        tensor = StoredTensor(Storage("0", "f4", 20), offset, shape, strides)
    except pickle.UnpicklingError:
        return
    elements = np.arange(20, dtype=np.float32)
    for index, element in np.ndenumerate(tensor.window(elements)):
        assert element == offset + sum(i * s for i, s in zip(index, strides, strict=True))


def test_torch_reads_written_files(tmp_path):
    torch = pytest.importorskip("torch")
    write_torch_file(tmp_path / "a.pt", small_state(), PROGRESS)
    for weights_only in (True, False):
        content = torch.load(tmp_path / "a.pt", weights_only=weights_only)
        for name, array in small_state().items():
            assert np.array_equal(content["state_dict"][name].numpy(), array)
        assert content["test_acc"] == 0.75
