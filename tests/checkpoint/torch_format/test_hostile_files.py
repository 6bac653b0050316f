"""Files that are made to exhaust memory, time or the stack end in one sentence."""

import pickle
import zipfile

import numpy as np
import pytest

import dlrmjit
from dlrmjit.checkpoint import read_torch_file, write_torch_file
from dlrmjit.errors import CheckpointError
from tests.checkpoint.torch_format.test_reader import REFERENCE, repack, small_state


def file_of(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return path


def nested_lists():
    value = [0] * 10
    for _ in range(30):
        value = [value] * 10  # the pickle refers to each list once: a few hundred bytes
    return pickle.dumps({"state_dict": {}, "x": value}, 2)


def self_reference():
    value = {"state_dict": {}}
    value["x"] = value
    return pickle.dumps(value, 2)


def deep_lists():
    return b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."


@pytest.mark.parametrize("make", [nested_lists, self_reference, deep_lists])
def test_values_that_expand_without_end_are_refused(tmp_path, make):
    with pytest.raises(CheckpointError, match=r"nested|pickle|saved model"):
        read_torch_file(file_of(tmp_path / "a.pt", make()))


@pytest.mark.parametrize(
    "shape", [(0, 1 << 62), (1 << 40, 0), (0, 1 << 40, 1 << 40), (1,) * 9, (True, 2)]
)
def test_shapes_that_no_tensor_has_are_refused(tmp_path, shape):
    def edit(name, data):
        if not name.endswith("data.pkl"):
            return data
        return data.replace(b"K\x03K\x02\x86", pickle.dumps(shape, 2)[2:-1])

    write_torch_file(tmp_path / "a.pt", small_state(), {})
    assert (5, 2) not in [a.shape for a in read_torch_file(tmp_path / "a.pt").state.values()]
    edited = repack(tmp_path / "b.pt", tmp_path / "a.pt", edit=edit)
    with pytest.raises(CheckpointError):
        dlrmjit.load(edited)


def test_a_pickle_of_more_than_a_models_size_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * (65 << 20))
    with pytest.raises(CheckpointError, match="its pickle has"):
        read_torch_file(path)


@pytest.mark.parametrize(("offset", "value"), [(8, 99), (6, 1)], ids=["method", "encrypted"])
def test_entries_that_cannot_be_decoded_are_refused(tmp_path, offset, value):
    data = bytearray(REFERENCE.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + offset + 2] = value
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CheckpointError):
        read_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize("progress", [{"x": {1, 2}}, {"x": frozenset()}, {"x": {(1, 2): 3}}])
def test_a_value_that_no_reader_accepts_is_not_written(tmp_path, progress):
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_torch_file(tmp_path / "a.pt", small_state(), progress)
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("kind", ["f2", "f8"])
def test_parameters_of_other_float_types_become_float32(tmp_path, kind):
    def edit(name, data):
        if name.endswith("data.pkl"):
            names = {"f2": b"HalfStorage", "f8": b"DoubleStorage"}
            return data.replace(b"FloatStorage", names[kind])
        return np.frombuffer(data, "<f4").astype(kind).tobytes() if "/data/" in name else data

    write_torch_file(tmp_path / "a.pt", small_state(), {})
    found = read_torch_file(repack(tmp_path / "b.pt", tmp_path / "a.pt", edit=edit)).state
    for name, array in small_state().items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], array)


def test_bfloat16_parameters_become_float32_exactly(tmp_path):
    def edit(name, data):
        if name.endswith("data.pkl"):
            return data.replace(b"FloatStorage", b"BFloat16Storage")
        if "/data/" not in name:
            return data
        return (np.frombuffer(data, "<u4") >> 16).astype("<u2").tobytes()

    write_torch_file(tmp_path / "a.pt", small_state(), {})
    found = read_torch_file(repack(tmp_path / "b.pt", tmp_path / "a.pt", edit=edit)).state
    for name, array in small_state().items():  # small integers and halves have 8 bits at most
        assert np.array_equal(found[name], array)


def test_values_beyond_float32_are_refused(tmp_path):
    write_torch_file(tmp_path / "a.pt", {"emb_l.0.weight": np.full((2, 2), 1e300)}, {})
    with pytest.raises(CheckpointError, match=r"emb_l\.0\.weight has values beyond float32"):
        read_torch_file(tmp_path / "a.pt")


def test_a_bare_state_dict_is_read(tmp_path):
    write_torch_file(tmp_path / "a.pt", small_state(), {})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        data = archive.read("a/data.pkl")
    start = data.index(b"state_dict") + len(b"state_dict")
    start += 2 if data[start : start + 1] == b"q" else 0
    end = data.index(b"opt_state_dict") - 5
    bare = b"\x80\x02" + data[start:end].rstrip(b"X") + b"."

    def edit(name, content):
        return bare if name.endswith("data.pkl") else content

    found = read_torch_file(repack(tmp_path / "b.pt", tmp_path / "a.pt", edit=edit))
    assert list(found.state) == list(small_state())
    assert found.progress == {}


@pytest.mark.parametrize("part", ["/data/0", "data.pkl"])
def test_compressed_data_that_ends_before_its_stated_size_is_refused(tmp_path, part):
    """Python's zipfile returns what there is, whose checksum is right."""

    def shorten(name, data):
        return data[:-4] if name.endswith(part) else data

    path = repack(tmp_path / "a.pt", compress=zipfile.ZIP_DEFLATED, edit=shorten)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(part.encode()))
    size = int.from_bytes(data[entry + 24 : entry + 28], "little")
    data[entry + 24 : entry + 28] = (size + 4).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_torch_file(path)
