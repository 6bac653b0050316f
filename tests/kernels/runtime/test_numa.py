"""Memory nodes of CPUs, read from made-up trees of the system's files."""

from dlrmjit_kernels.runtime import numa


def _system(folder, **lists):
    for name, cpus in lists.items():
        (folder / name).mkdir()
        (folder / name / "cpulist").write_text(cpus + "\n")
    return folder


def test_cpus_belong_to_the_nodes_that_list_them(tmp_path):
    root = _system(tmp_path, node0="0-1,8-9", node1="4,6", node12="")
    (tmp_path / "node3").mkdir()  # without a list
    (tmp_path / "power").mkdir()
    assert numa.node_of_cpus(root) == {0: 0, 1: 0, 8: 0, 9: 0, 4: 1, 6: 1}
    assert numa.node_count([0, 8], root) == 1
    assert numa.node_count([0, 8, 6], root) == 2


def test_a_system_without_nodes_counts_as_one_node(tmp_path):
    assert numa.node_of_cpus(tmp_path / "absent") == {}
    assert numa.node_count([0, 1], tmp_path) == 1
    assert numa.node_count([], tmp_path) == 1
