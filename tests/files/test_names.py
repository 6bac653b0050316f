"""Names found in data become names of files only where they plainly are."""

from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.files.names import is_inside, is_plain, safe_names

SUFFIXES = (".npy", ".values.npy")
HOSTILE = [
    "/abs/x",
    "../up",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    ".hidden",
    "-rf",
    "x" * 300,
]


def test_hostile_names_are_replaced():
    assert safe_names([*HOSTILE, "user"], [f"t{i}" for i in range(13)], SUFFIXES) == [
        *(f"t{i}" for i in range(12)),
        "user",
    ]


def test_names_that_would_share_a_file_are_all_replaced():
    for names in (["a", "a"], ["a", "A"], ["a", "a.values"], ["t1", "/"]):
        assert safe_names(names, ["t0", "t1"], SUFFIXES) == ["t0", "t1"]
    assert safe_names(["größe", "user id"], ["t0", "t1"], SUFFIXES) == ["größe", "user id"]


@given(st.lists(st.text(max_size=8) | st.sampled_from(HOSTILE), max_size=5))
def test_every_file_is_another_and_in_its_folder(names):
    stems = safe_names(names, [f"table_{i}" for i in range(len(names))], SUFFIXES)
    files = [f"{stem}{suffix}".casefold() for stem in stems for suffix in SUFFIXES]
    assert len(set(files)) == len(files)
    assert all(is_plain(stem) and is_inside(f"{stem}.npy") for stem in stems)


def test_paths_of_a_manifest_stay_in_its_folder():
    assert all(is_inside(path) for path in ("a", "train/labels.npy", "a.b"))
    wrong = ["", "/", "/a", "..", "../a", "a/../../b", "a//b", "./a", "a/", "a\0b"]
    assert not any(is_inside(path) for path in wrong)
