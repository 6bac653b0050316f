"""Activations, layer normalisation and wide terms of whole models: gradients, bits, formats."""

from dataclasses import replace

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture.families import ALWAYS_WIDE, FAMILIES, with_wide_part
from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.check import check_architecture
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from dlrmjit.ops import get_backend
from dlrmjit.training.persistence import load, save
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch, small_config

CASES = {
    "dlrm": {"bottom_activation": "silu", "top_activation": "tanh", "wide": True},
    "dlrm-projection": {"top_activation": "sigmoid", "layer_norm": True, "wide": True},
    "dcnv2": {"bottom_activation": "none", "top_activation": "silu", "layer_norm": True},
    "dcn": {"top_activation": "tanh", "wide": True},
    "deepfm": {"top_activation": "silu", "layer_norm": True},
    "wide-deep": {"top_activation": "sigmoid"},
    "nfm": {"top_activation": "none", "layer_norm": True},
}
cases = pytest.mark.parametrize("name", CASES)


@cases
def test_gradients_are_numeric_derivatives(name):
    model = family(name, **CASES[name])
    check_architecture(model)
    check_architecture(model, backend=get_backend("jit"), tolerance=2e-5)


@cases
def test_backends_agree_for_any_number_of_threads(name):
    model = family(name, mlp_top=(79, 33, 1), **CASES[name])
    rng = np.random.default_rng(0)
    batches = [random_batch(rng, model, n) for n in (50, 17, 50)]

    def trained(backend):
        found = Model(model, backend=backend)
        found.scale_tables(0.3)
        step = TrainingStep(found)
        losses = [step(batch, 0.1) for batch in batches]
        return losses, {name: value.tobytes() for name, value in found.state_dict().items()}

    results = []
    for count in (1, 2, 4, 7):
        threads.set_threads(count)
        try:
            results.append(trained("jit"))
        finally:
            threads.set_threads(threads.available_cpus())
    assert all(result == results[0] for result in results)
    np.testing.assert_allclose(results[0][0], trained("reference")[0], rtol=3e-5)


@cases
def test_a_saved_model_computes_the_same(name, tmp_path):
    model = Model(family(name, **CASES[name]))
    save(model, tmp_path / "model")
    again, batch = load(tmp_path / "model"), random_batch(np.random.default_rng(1), model.config, 9)
    assert again.config == model.config
    np.testing.assert_array_equal(again.predict_proba(batch), model.predict_proba(batch))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_a_logistic_regression_of_numbers(name):
    """With all other parameters zero, the logit is the weighted sum of dense features."""
    wide = {} if name in ALWAYS_WIDE else {"wide": True}
    model = Model(family(name, **wide), initialise=False)
    state = {name: np.zeros_like(value) for name, value in model.state_dict().items()}
    weights = np.linspace(-3, 3, 13)
    state["linear.0.weight"] = weights[None].astype(np.float32)
    state["wide.2.weight"][...] = np.arange(30)[:, None] / 10
    for key, value in state.items():
        if ".running_var" in key:
            value[...] = 1
    model.load_state(state)
    rng = np.random.default_rng(0)
    dense, ids = rng.standard_normal((8, 13)), [np.zeros(8, int), np.zeros(8, int), np.arange(8)]
    found = model.predict_proba(Batch(dense, ids, [np.arange(8)] * 3))
    logits = dense @ weights + np.arange(8) / 10
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-4)


def test_wide_terms_do_not_change_the_initial_values_of_the_others():
    plain, wide = (DLRM(small_config(wide=w)).state_dict() for w in (False, True))
    assert set(wide) - set(plain) == {
        *(f"wide.{s}.weight" for s in range(3)),
        *("linear.0.weight", "linear.0.bias"),
    }
    assert all(np.array_equal(wide[name], value) for name, value in plain.items())


def test_a_wide_part_is_added_to_any_architecture_once():
    lr = family("lr")
    assert with_wide_part(lr, False) == lr
    nfm = with_wide_part(family("dcnv2"), True)
    assert nfm.shapes[nfm.output] == (1,)


def test_a_description_says_only_what_is_not_usual():
    assert set(small_config().to_dict()) == {
        *("table_rows", "embedding_dim", "mlp_bottom", "mlp_top", "interaction"),
        *("interaction_itself", "dropout", "batch_norm", "table_dims"),
    }
    config = small_config(wide=True, top_activation="silu", layer_norm=True)
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "change",
    [{"wide": True}, {"layer_norm": True}, {"top_activation": "tanh"}],
    ids=str,
)
def test_the_reference_format_refuses_what_it_cannot_express(change, tmp_path):
    [(name, value)] = change.items()
    with pytest.raises(CheckpointError, match=f"cannot have {name} {value}; save"):
        save(DLRM(small_config(**change)), tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_wrong_values_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"top_activation must be one of relu, .* not 'gelu'"):
        small_config(top_activation="gelu")
    with pytest.raises(ConfigError, match="one normalisation"):
        small_config(batch_norm=True, layer_norm=True)
    with pytest.raises(ConfigError, match="one normalisation"):
        family("deepfm", batch_norm=True, layer_norm=True)
    with pytest.raises(ConfigError, match="an activation of relu"):
        family("nfm", top_activation="gelu")


def test_memory_counts_what_activations_and_normalisation_store():
    config = small_config()
    plain = estimate_memory(config, 100).step
    for change in ({"batch_norm": True}, {"layer_norm": True}, {"top_activation": "silu"}):
        assert estimate_memory(replace(config, **change), 100).step > plain
