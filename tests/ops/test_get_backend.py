"""Which backend is used, and when one is refused."""

import pytest

from dlrmjit.errors import ConfigError
from dlrmjit.ops import get_backend


def test_the_compiled_backend_is_refused_without_its_compiler(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(ConfigError, match=r"NUMBA_DISABLE_JIT is set.*use --backend reference"):
        get_backend("jit")
    assert get_backend("reference") is not None
