"""Checks the settings of a model before anything is built or trained."""

from dataclasses import fields
from typing import Any

from normplugins.models.config import ModelConfig, NormTransformerConfig
from normplugins.models.language_model_config import NormTransformerLMConfig, TensorTransformerLMConfig
from normplugins.models.norm_settings import NORM_KEYS, SITES, refuse_unread_settings
from normplugins.utils.errors import UserError

MODELS: dict[str, type[ModelConfig]] = {
    "norm_transformer": NormTransformerConfig,
    "norm_transformer_lm": NormTransformerLMConfig,
    "tensor_transformer_lm": TensorTransformerLMConfig,
}
"""The settings of each model of this package, by its name."""


def check_model(cfg: Any) -> None:
    """Refuse settings of the model ``cfg._name``, a key of ``MODELS``, that cannot work; needs no corpus.

    Raises:
        UserError: an unknown key, settings that do not fit together, an unknown norm, or a norm setting that is not at
            its default and that no norm of the model reads.
    """
    settings = MODELS[cfg._name]
    known = sorted(f.name for f in fields(settings))
    if unknown := sorted(str(key) for key in cfg if key not in known):
        raise UserError(f"unknown key 'model.{unknown[0]}'. Known in {cfg._name}: {', '.join(known)}")
    resolved = settings.resolve(cfg, prefix="model.")
    for key in NORM_KEYS:
        if hasattr(resolved, key):
            for layer in range(resolved.stack_depth(key)):
                for site in SITES if resolved.normalize_before else SITES[:2]:
                    resolved.build_norm(key, site, layer)
            resolved.build_qk_norm(key)
    refuse_unread_settings(resolved, prefix="norm.")
