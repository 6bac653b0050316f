"""The DLRM as a class: a model whose configuration is a :class:`ModelConfig`."""

from __future__ import annotations

from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.model import ModelConfig
from dlrmjit.model.model import Model


class DLRM(Model):
    """A deep learning recommendation model, see :class:`Model` for its parameters.

    ``config`` is a :class:`~dlrmjit.config.model.ModelConfig`.
    """

    config: ModelConfig

    @property
    def tables(self) -> Parameter:
        """The embedding tables of the vectors of this process, as one parameter."""
        return self.store.parameters()[0]
