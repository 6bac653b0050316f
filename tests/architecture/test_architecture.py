"""A model as a value: what it is made of, and what is refused."""

import json

import pytest

from dlrmjit.architecture import (
    Architecture,
    Concat,
    Cross,
    Dense,
    Embedding,
    Fm,
    Interaction,
    Mlp,
    NumpyNode,
    Product,
    Sum,
    register_node,
)
from dlrmjit.architecture.families import FAMILIES, family_values
from dlrmjit.errors import ConfigError
from tests.builders import family, small_config

IDS = Embedding("ids", rows=(5, 9), dim=4)
DENSE = Dense("dense", features=3)
LOGIT = Mlp("logit", ("joined",), (1,), last="none")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_description_survives_json(name):
    model = family(name)
    described = json.loads(json.dumps(model.to_dict()))
    assert Architecture.from_dict(described) == model
    assert hash(Architecture.from_dict(described)) == hash(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_columns_and_features_of_its_values(name):
    model = family(name)
    assert (model.table_rows, model.tables, model.dense_features) == ((7, 1, 30), 3, 13)
    assert model.shapes[model.output] == (1,)


def test_a_config_of_a_dlrm_has_the_nodes_of_its_family():
    assert small_config().architecture == family("dlrm")
    assert small_config().architecture.output == "top_l"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "needs nodes"),
        ((DENSE, DENSE), "two nodes are called 'dense'"),
        ((Concat("joined", ("ids",)),), "'joined' has the input 'ids', but no node before it"),
        ((IDS, DENSE, Concat("joined", ("ids",)), LOGIT), "'dense' is the input of no node"),
        ((IDS, Concat("joined", ("ids",))), "the last node, 'joined', is the logit"),
        ((IDS, Mlp("logit", ("ids",), (1,))), "mlp node 'logit' needs one matrix as input"),
        ((DENSE, Fm("logit", ("dense",))), "fm node 'logit' needs vectors of one embedding node"),
        ((DENSE, IDS, Interaction("i", ("dense", "ids"))), "'i' needs .* not width 3, 2 vectors"),
        ((DENSE, IDS, Sum("logit", ("dense", "ids"))), "'logit' needs inputs of one width"),
        ((DENSE, Product("logit", ("dense", "dense"), dim=2)), "inputs whose widths 2 divides"),
        (
            (IDS, Embedding("other", (), (5, 8), 4), Concat("joined", ("ids", "other")), LOGIT),
            "other.1.weight 8, but both look up column 1",
        ),
        (
            (Embedding("ids", (), (5,), 4, columns=(1,)), Concat("joined", ("ids",)), LOGIT),
            "no table looks up column 0",
        ),
    ],
)
def test_nodes_that_do_not_fit_are_refused_by_name(nodes, message):
    with pytest.raises(ConfigError, match=message):
        Architecture(nodes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense("", features=2), "must be named"),
        (lambda: Dense("a.b", features=2), "must be named"),
        (lambda: Dense("dense"), "needs dense features"),
        (lambda: Embedding("e", (), (), 4), "positive rows"),
        (lambda: Embedding("e", (), (3, 0), 4), "positive rows"),
        (lambda: Embedding("e", (), (3, 2), 4, columns=(0,)), "one column for every table"),
        (lambda: Embedding("e", (), (3, 2), 4, dims=(5, 4)), "widths of tables from 1 to 4"),
        (lambda: Embedding("e", (), (3, 2), 4, initial="ones"), "uniform or zeros"),
        (lambda: Mlp("m", ("x",), ()), "positive widths"),
        (lambda: Mlp("m", ("x",), (3,), last="gelu"), "an activation of"),
        (lambda: Cross("c", ("x",), 0), "at least one layer"),
        (lambda: Cross("c", ("x",), 1, 4, vector=True), "a rank"),
        (lambda: Interaction("i", ("x",), "plus"), "dot or cat"),
    ],
)
def test_a_node_with_wrong_values_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_kind_that_is_not_known_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"'tree', which is not known here.*import the module"):
        Architecture.from_dict({"nodes": [{"kind": "tree", "name": "a", "inputs": []}]})
    with pytest.raises(ConfigError, match="not a dense node"):
        Architecture.from_dict({"nodes": [{"kind": "dense", "name": "a", "width": 3}]})


def test_a_kind_needs_a_name_that_no_other_has():
    class Other(NumpyNode):
        kind = "mlp"

    with pytest.raises(ConfigError, match="needs a name of its own"):
        register_node(Other)


def test_one_input_may_be_given_without_a_tuple():
    assert Fm("fm", "ids").inputs == ("ids",)


def test_the_values_of_an_unknown_family_are_refused():
    with pytest.raises(ConfigError, match="unknown model 'gpt'; known are dlrm, dcnv2"):
        family_values("gpt")
