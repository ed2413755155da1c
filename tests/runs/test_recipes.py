"""The recipes of later papers on IWSLT14, each with every paper's norm."""

import pytest

from normplugins.models.config import NormTransformerConfig
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["ln", "pn", "un", "rbn"])
def test_every_norm_can_be_trained_with_every_recipe(norm):
    for recipe in ("powernorm", "un", "rbn"):
        config = compose_config("iwslt14", [f"norm={norm}", f"recipe={recipe}"])
        check(config)
        assert config.variant == (norm if recipe == "powernorm" else f"{norm},recipe={recipe}")


def test_norms_and_warmups_are_where_each_paper_has_them():
    """UN's in both stacks with one warmup, RegularizedBN's in the encoder's layers, with LN at its end."""
    un = NormTransformerConfig.resolve(compose_config("iwslt14", ["norm=un", "recipe=un"]).model)
    for key in ("encoder_norm", "decoder_norm"):
        assert {un.build_norm(key, site).warmup_updates for site in ("attention", "ffn", "final")} == {4000}
    rbn = NormTransformerConfig.resolve(compose_config("iwslt14", ["norm=rbn", "recipe=rbn"]).model)
    built = [type(rbn.build_norm("encoder_norm", site)).__name__ for site in ("attention", "ffn", "final")]
    assert built == ["RegularizedBatchNorm", "RegularizedBatchNorm", "LayerNorm"]


def test_an_experiment_without_recipes_refuses_one():
    with pytest.raises(UserError, match="multi30k has no config group recipe: leave recipe=NAME out"):
        compose_config("multi30k", ["recipe=un"])
