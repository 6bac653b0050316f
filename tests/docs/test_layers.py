"""The layers as they are drawn and defined are those of the sources."""

import pytest

from docs import layers


def test_the_committed_picture_is_that_of_the_sources():
    assert layers.PICTURE.read_text() == layers.picture(), "run: python docs/layers.py"


def test_every_room_has_a_layer_and_no_layer_names_a_room_that_is_gone():
    rooms = {layers.room_of(module) for module in layers.MODULES}
    assert rooms == {room for layer in layers.LAYERS for room in layer}


def test_rooms_do_not_import_each_other_in_a_circle():
    assert layers.circles(layers.room_arrows()) == []


def test_modules_do_not_import_each_other_in_a_circle():
    packages = {layers.module_name(p) for p in layers.SOURCES if p.name == "__init__.py"}
    arrows = {
        module: imported - packages
        for module, imported in layers.module_arrows(for_types=False).items()
        if module not in packages
    }
    assert layers.circles(arrows) == []


def test_no_import_points_upward():
    assert layers.upward(layers.room_arrows()) == []


def test_no_folder_is_crowded():
    assert layers.crowded_folders([layers.ROOT / "dlrmjit", layers.ROOT / "kernels"]) == []


def test_a_circle_and_an_upward_import_would_be_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert layers.circles(arrows) == [["b", "c"]]
    wrong = {"dlrmjit.config": {"dlrmjit.training"}, "dlrmjit.training": {"dlrmjit.config"}}
    assert layers.upward(wrong) == [("dlrmjit.config", "dlrmjit.training")]


def test_arrows_that_follow_from_others_are_left_out():
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert layers.essential(arrows) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_rooms_that_import_each_other_are_named_instead_of_drawn(monkeypatch, capsys):
    drawn = layers.PICTURE.read_bytes()
    arrows = layers.room_arrows()
    arrows["dlrmjit.metrics"] |= {"dlrmjit.ranking"}
    arrows["dlrmjit.ranking"] |= {"dlrmjit.metrics"}
    monkeypatch.setattr(layers, "room_arrows", lambda: arrows)
    monkeypatch.setattr("sys.argv", ["docs/layers.py"])
    with pytest.raises(SystemExit, match="1"):
        layers.main()
    error = "docs/layers.py: these import each other, so that no layers fit them: "
    assert capsys.readouterr().err == error + "[['dlrmjit.metrics', 'dlrmjit.ranking']]\n"
    assert layers.PICTURE.read_bytes() == drawn


def test_a_room_without_a_layer_is_named():
    with pytest.raises(LookupError, match=r"dlrmjit\.new has no layer: add it to LAYERS"):
        layers.level_of("dlrmjit.new")


def test_the_report_counts_modules_and_names_arrows():
    lines = layers.report().splitlines()
    assert any(line.startswith("dlrmjit.optim ") and "dlrmjit.ops" in line for line in lines)
    assert lines[-2:] == ["circles of rooms: []", "upward imports: []"]
