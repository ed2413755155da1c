"""Which language model a run trained: one of three readings of the paper's Table 2, or another model."""

import re
from collections.abc import Mapping
from typing import Any

NOT_KNOWN = (
    "It is not known which model the paper's Table 2 is about, because its language-model code was never released. "
    "There are three readings. `reading=code` is the published code of the tensorized transformer, on which "
    "the paper builds: post-norm, with a mask that is never applied. `reading=masked` is the same with the mask "
    "applied. `reading=paper` is masked and pre-norm, as the paper describes it (recalled and not confirmed). "
    "With `reading=code`, every position sees the tokens after it; it is not known whether this holds for the paper's "
    "numbers."
)
SEES_THE_FUTURE = (
    '"Sees the future": attention is not masked, so every position reads the tokens after it, including the one that '
    "it has to predict. Such a number is not the perplexity of a language model and cannot be compared with one."
)
NORM_SEES_THE_FUTURE = (
    '"Its norm sees the future": attention is masked, but the norm computes its statistics over the whole segment, at '
    "evaluation too, and so reads the tokens to predict. This is not the perplexity of a language model either."
)
CHOICES = re.compile(r"(model\.(causal|normalize_before|_name)|(architecture|reading|budget)(\.\w+)?)=.*")
"""Settings in a cell's name that repeat what the language model's or the schedule's name says."""


READINGS = CODE, MASKED, PAPER = "reading=code: sees the future", "reading=masked", "reading=paper"
"""The readings of the paper's Table 2."""
TRANSFORMER, PRE_NORM_TRANSFORMER = "causal transformer", "causal transformer, pre-norm"
UNMASKED_PRE_NORM = "pre-norm, unmasked: sees the future"
_CAUSAL = (MASKED, PAPER, TRANSFORMER, PRE_NORM_TRANSFORMER)


def _not_causal(model: str) -> str:
    return f"{model.replace('causal', 'masked')}, but its norm sees the future"


MODELS = {
    CODE: "attention",
    **dict.fromkeys(_CAUSAL, ""),
    UNMASKED_PRE_NORM: "attention",
    **dict.fromkeys(map(_not_causal, _CAUSAL), "norm"),
}
"""The language models in the order of the rows, with what lets a position see the tokens after it, if anything does."""


def language_model(name: str, pre_norm: bool, masked: bool, causal: bool) -> str:
    """Return the language model of these settings, a key of ``MODELS``.

    Args:
        name: the model's registered name, such as ``tensor_transformer_lm``; others raise a ValueError.
        pre_norm: whether norms stand before their sublayers.
        masked: whether attention hides the tokens after each position.
        causal: whether neither attention nor the norm lets a position see the tokens after it.
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


def recorded_model(config: Mapping[str, Any], seen: bool) -> str:
    """Return the language model of a run with this config, or "" for a translation model.

    The recorded settings decide, not the cell's name. They say whether attention is masked; ``seen`` says whether
    attention or the norm lets a position see the tokens after it.

    Raises:
        KeyError: the settings do not say whether a language model sees the future.
        ValueError: there is no language model with the recorded name.
    """
    if config.get("task._name") != "language_modeling":
        return ""
    name = str(config["model._name"])
    masked = name != "tensor_transformer_lm" or bool(config["model.causal"])
    return language_model(name, bool(config.get("model.normalize_before")), masked, not seen)
