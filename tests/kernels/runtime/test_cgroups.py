"""Folders of the control groups of a process, on made-up trees."""

from dlrmjit_kernels.runtime.cgroups import control_groups


def test_folders_of_both_versions_innermost_first(tmp_path):
    listing = tmp_path / "listing"
    listing.write_text("5:memory:/a/b\n4:cpu,cpuacct:/c\n3:cpuset:/e\n1:name=systemd:/\n0::/d\n")

    def found(controller):
        folders = control_groups(controller, tmp_path, listing)
        return [str(folder.relative_to(tmp_path)) for folder in folders]

    assert found("memory") == ["memory/a/b", "memory/a", "memory", "d", "."]
    assert found("cpu") == ["cpu/c", "cpu", "d", "."]


def test_a_system_without_groups(tmp_path):
    assert control_groups("cpu", tmp_path, tmp_path / "absent") == []
