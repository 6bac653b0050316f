"""The benchmark of steps accepts the peers it has, and refuses other names."""

import sys

import pytest

from bench import step


def options(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.step", *arguments])
    return step._options()


@pytest.mark.parametrize("peers", [[], ["fbgemm"], list(step.PEERS)])
def test_peers_are_those_given(monkeypatch, peers):
    assert options(monkeypatch, "--peers", *peers).peers == peers


def test_an_unknown_peer_is_refused_by_name(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        options(monkeypatch, "--peers", "none")
    assert "'none'" in capsys.readouterr().err
