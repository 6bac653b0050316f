"""Flags of models that the reference does not have: families, their parts and tables."""

from __future__ import annotations

from dlrmjit.architecture.families import FAMILIES, HEADS
from dlrmjit.architecture.nodes.mlp import ACTIVATIONS
from dlrmjit.cli.options.domain import at_least
from dlrmjit.cli.options.flag import Flag, FlagGroup
from dlrmjit.cli.options.kinds import column, dashed_ints, switch

MODELS = FlagGroup(
    "models",
    (
        Flag(
            "model",
            str,
            "dlrm",
            "family of the model, see docs/models.md; --arch-mlp-top is the MLP of those that have "
            "one, and --arch-mlp-bot the number of dense features alone of those without a bottom "
            "MLP",
            values=tuple(FAMILIES),
        ),
        Flag(
            "head",
            str,
            None,
            "score the items of a list together, by a head in place of the model's last layer, see "
            "docs/lists.md; needs a set with lists",
            values=tuple(HEADS),
        ),
        Flag(
            "head-layers",
            dashed_ints,
            (64, 64, 1),
            "widths of the layers of --head, the last 1",
            domain=at_least(1),
        ),
        Flag("head-dim", int, 64, "width of the block of --head=attention", domain=at_least(1)),
        Flag(
            "sequence",
            column,
            None,
            "a categorical column whose values are in an order, such as the last clicks, by name "
            "or number: convolutions over the last ones make one more interacting vector",
            metavar="COLUMN",
        ),
        Flag(
            "sequence-length",
            int,
            5,
            "values of --sequence that are read, the last ones of a row",
            domain=at_least(1),
        ),
        Flag(
            "sequence-filters",
            int,
            16,
            "filters of --sequence that span h values, for each h up to --sequence-length",
            domain=at_least(1),
        ),
        Flag(
            "sequence-vertical",
            int,
            4,
            "filters of --sequence that weight the positions",
            domain=at_least(1),
        ),
        Flag(
            "dcn-num-layers",
            int,
            3,
            "cross layers of --model=dcnv2 and dcn",
            domain=at_least(1),
        ),
        Flag(
            "dcn-low-rank-dim",
            int,
            None,
            "rank of the cross layers of --model=dcnv2; 0 has full matrices (default: 512, or 0 "
            "where the layers are less than 1024 wide)",
            domain=at_least(0),
        ),
        Flag(
            "interaction-branch1-layer-sizes",
            dashed_ints,
            (),
            "widths of the first MLP of --model=dlrm-projection, the last a multiple of "
            "--arch-sparse-feature-size (default: four times that)",
            domain=at_least(1),
        ),
        Flag(
            "interaction-branch2-layer-sizes",
            dashed_ints,
            (),
            "widths of the second MLP of --model=dlrm-projection, likewise",
            domain=at_least(1),
        ),
        Flag(
            "wide",
            switch,
            False,
            "add to the logit a weight per category and per dense feature, which lr to nfm have "
            "always",
        ),
        Flag(
            "mlp-bot-activation",
            str,
            "relu",
            "activation of all layers of the bottom MLP",
            values=ACTIVATIONS,
        ),
        Flag(
            "mlp-top-activation",
            str,
            "relu",
            "activation of the hidden layers of all other MLPs",
            values=ACTIVATIONS,
        ),
    ),
)

TABLES = FlagGroup(
    "embedding tables",
    (
        Flag(
            "embedding-dir",
            str,
            None,
            "store embedding tables and their optimizer state in files in this directory, which "
            "are removed when the run ends; they may exceed memory",
            metavar="DIR",
        ),
        Flag(
            "bounds",
            str,
            "raise",
            "what to do with a stored index outside its table: refuse the batch, use the nearest "
            "row, or ignore the lookup",
            values=("raise", "clamp", "ignore"),
        ),
    ),
)
