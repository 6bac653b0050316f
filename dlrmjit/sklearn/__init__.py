"""An estimator for scikit-learn; needs ``pip install 'dlrmjit[sklearn]'``."""

from __future__ import annotations

from dlrmjit.errors import ConfigError

try:
    import sklearn as _sklearn
except ImportError:  # pragma: no cover - where scikit-learn is not installed
    raise ConfigError(
        "dlrmjit.sklearn needs scikit-learn; install it with: pip install 'dlrmjit[sklearn]'"
    ) from None

from dlrmjit.sklearn.classifier import DLRMClassifier

__all__ = ["DLRMClassifier"]

del _sklearn
