"""The baseline: stock fairseq in this process, as ``fairseq-train --arch transformer_iwslt_de_en`` builds it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.models import ARCH_CONFIG_REGISTRY, BaseFairseqModel
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.trainer import Trainer
from omegaconf import DictConfig, OmegaConf, open_dict

ARCHITECTURE = "transformer_iwslt_de_en"
SIDES = ("embed_dim", "ffn_embed_dim", "attention_heads", "layers")
SAME = (  # settings of our model that stock fairseq's has too, under the same names
    *(f"{side}_{name}" for side in ("encoder", "decoder") for name in SIDES),
    *("dropout", "attention_dropout", "activation_dropout"),
    *("share_all_embeddings", "share_decoder_input_output_embed", "max_source_positions", "max_target_positions"),
)


def stock_config(config: DictConfig) -> DictConfig:
    """The config of stock fairseq's run of an experiment: its own model, criterion and Adam, all else the same.

    Args:
        config: fairseq's part of a translation experiment's config (``experiment.config.fairseq_config``); it stays as
            it is.

    Returns:
        A config whose ``model`` is the architecture's, with the experiment's sizes, dropout and place of the norms.
    """
    stock = config.copy()
    own = config.optimizer
    with open_dict(stock):
        stock.model = vars(_model_arguments(config.model))
        stock.criterion = _component(
            "label_smoothed_cross_entropy",
            LabelSmoothedCrossEntropyCriterionConfig,
            label_smoothing=config.criterion.label_smoothing,
        )
        stock.optimizer = _component(
            "adam",
            FairseqAdamConfig,
            adam_betas=list(own.adam_betas),
            adam_eps=own.adam_eps,
            weight_decay=own.weight_decay,
        )
    return stock


def stock_model(config: DictConfig, task: Any) -> BaseFairseqModel:
    """Stock fairseq's transformer with LayerNorm, of the sizes of an experiment; arguments as of ``stock_trainer``."""
    return task.build_model(_model_arguments(config.model))


def stock_trainer(config: DictConfig, task: Any) -> Trainer:
    """fairseq's own trainer with its own model, Adam and label-smoothed cross-entropy.

    Args:
        config: fairseq's part of a translation experiment's config; ``model.normalize_before`` chooses pre-norm.
        task: a fairseq translation task, the one that our model trains on, so that both take the same batches.

    Returns:
        A trainer whose ``train_step([batch])`` is one update.
    """
    stock = stock_config(config)
    return Trainer(stock, task, stock_model(config, task), task.build_criterion(stock.criterion))


def _model_arguments(model: DictConfig) -> Namespace:
    """What fairseq's command line gives its model: the experiment's settings, and the architecture's for the rest."""
    given = {name: model[name] for name in SAME if model.get(name) is not None}
    before = {f"{side}_normalize_before": model.normalize_before for side in ("encoder", "decoder")}
    arguments = Namespace(arch=ARCHITECTURE, **given, **before)
    ARCH_CONFIG_REGISTRY[ARCHITECTURE](arguments)
    return arguments


def _component(name: str, schema: type, **values: Any) -> dict[str, Any]:
    """A component's config: fairseq's defaults, which may refer to other sections, and these values."""
    defaults = OmegaConf.to_container(OmegaConf.structured(schema))
    assert isinstance(defaults, dict)
    return {**defaults, "_name": name, **values}
