"""Which language model a run trained: the reading of Table 2 that it is of, or another model beside them.

Which model Table 2 of the paper is about is not known, so that three readings stand side by side, a column each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

READINGS = ("code", "masked", "paper")
"""Names of ``reading=NAME``, in the order of their columns."""

NOT_KNOWN = (
    "Which model the paper's Table 2 is about is not known: its language-model code was never released. Three readings "
    "stand side by side. `reading=code`: the published code of the tensorized transformer, on which the paper builds; "
    "post-norm, and its mask is never applied. `reading=masked`: the same with the mask applied. `reading=paper`: "
    "masked and pre-norm, as the paper's own text has it (recalled and not confirmed). With `reading=code` every "
    "position sees the tokens after it; whether that is so of the paper's own numbers is not known."
)
SEES_THE_FUTURE = (
    '"Sees the future": attention is not masked, so at every position the model reads the tokens after it, the one it '
    "has to predict among them. Such a number is no language model's perplexity and not to be compared with a masked "
    "one."
)
NORM_SEES_THE_FUTURE = (
    'In a row that says "its norm sees the future", attention is masked, but the norm\'s statistics are those of the '
    "whole segment, the tokens to predict among them, at evaluation too. That is no language model's perplexity either."
)
BY_NORM = "its norm sees the future"
# Settings of a cell's name that a LanguageModel, or a schedule's name, says already.
CHOICES = re.compile(r"(model\.(causal|normalize_before|_name)|(architecture|reading|budget)(\.\w+)?)=.*")


@dataclass(frozen=True)
class LanguageModel:
    """A language model by what its positions see and where its norms stand.

    ``name`` says all of it, wherever a number or a curve stands; ``reading`` is the column it stands in; ``row`` is
    what the name of its row adds to the column's heading, empty for the three readings themselves. ``sees_by`` is what
    lets a position see the tokens after it: "attention", "norm" or, for a causal model, nothing.
    """

    name: str
    reading: str
    row: str = ""
    sees_by: str = ""


CODE = LanguageModel("reading=code: sees the future", "code", sees_by="attention")
MASKED = LanguageModel("reading=masked", "masked")
PAPER = LanguageModel("reading=paper", "paper")
TRANSFORMER = LanguageModel("causal transformer", "masked", "causal transformer")
PRE_NORM_TRANSFORMER = LanguageModel("causal transformer, pre-norm", "paper", "causal transformer")
UNMASKED_PRE_NORM = LanguageModel("pre-norm, unmasked: sees the future", "code", "pre-norm", "attention")


def _not_causal(model: LanguageModel) -> LanguageModel:
    masked = model.row.replace("causal", "masked")
    return LanguageModel(
        f"{model.name.replace('causal', 'masked')}, but {BY_NORM}",
        model.reading,
        f"{masked}, but {BY_NORM}" if masked else BY_NORM,
        "norm",
    )


_CAUSAL = (MASKED, PAPER, TRANSFORMER, PRE_NORM_TRANSFORMER)
MODELS = (CODE, *_CAUSAL, UNMASKED_PRE_NORM, *map(_not_causal, _CAUSAL))
"""Every language model there is, in the order of its rows."""


def language_model(name: str, pre_norm: bool, masked: bool, causal: bool) -> LanguageModel:
    """Which language model it is.

    Args:
        name: the model's registered name, such as ``tensor_transformer_lm``.
        pre_norm: whether a norm stands before its sublayer.
        masked: whether attention hides the tokens after each position.
        causal: whether nothing of these tokens reaches it, by the norm either.

    Raises:
        ValueError: there is no language model of this name.
    """
    if name == "norm_transformer_lm":
        model = PRE_NORM_TRANSFORMER if pre_norm else TRANSFORMER
    elif name != "tensor_transformer_lm":
        raise ValueError(f"unknown language model {name!r}")
    elif not masked:
        return UNMASKED_PRE_NORM if pre_norm else CODE
    else:
        model = PAPER if pre_norm else MASKED
    return model if causal else _not_causal(model)


def recorded_model(config: Mapping[str, Any], ppl: Mapping[str, Any] | None, label: str) -> LanguageModel | None:
    """Which language model a run's record is of; None for a translation.

    The settings of the model decide, not the cell's name. Whether attention is masked stands there, and whether the
    norm leaves the model causal in the signature of its score; without a score, in the record's label.

    Args:
        config: the record's flat config.
        ppl: its perplexity with its signature, if it was scored.
        label: the record's label.

    Raises:
        KeyError: the settings do not say whether a language model sees the future.
        ValueError: as of ``language_model``.
    """
    if ppl is None and config.get("task._name") != "language_modeling":
        return None
    name = str(config["model._name"])
    masked = name != "tensor_transformer_lm" or bool(config["model.causal"])
    seen = "causal:no" in str(ppl.get("signature")).split("|") if ppl else label.startswith("not causal")
    return language_model(name, bool(config.get("model.normalize_before")), masked, not seen)
