"""What a language-model run does its own way: segments and windows are checked, perplexity is measured."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.data import Dictionary
from fairseq.tasks.language_modeling import LanguageModelingTask
from omegaconf import DictConfig
from torch import Tensor

from normplugins.corpora import PreparedText, RunningText
from normplugins.evaluation.perplexity import Perplexity, Windows, check_windows, measure
from normplugins.models.config import is_causal
from normplugins.utils.errors import UserError

CORPUS = RunningText
RESCORABLE = ("evaluate.recalibrate", "evaluate.segment", "evaluate.context", "evaluate.batch_size")
OUTPUT = "logprobs.npy"
OUTPUTS = (f"test*.{OUTPUT}",)
SEES_THE_FUTURE = "unmasked: every position sees the tokens after it"
NORM_SEES_THE_FUTURE = "not causal: by its norm every position sees the tokens after it"


def check(config: DictConfig) -> None:
    """Refuse settings that cannot work, including the windows that are scored after training.

    Raises:
        UserError: the message names the key, its value and what would do.
    """
    segment = config.task.tokens_per_sample
    most = config.model.get("max_positions", segment)
    if segment > most:
        raise UserError(f"task.tokens_per_sample={segment}, and the model takes {most} tokens (model.max_positions)")
    check_windows(_windows(config), most)
    if config.task.sample_break_mode not in (None, "none"):
        raise UserError(f"task.sample_break_mode={config.task.sample_break_mode}: perplexity is measured with none")
    for key in ("add_bos_token", "self_target", "past_target"):
        if config.task[key]:
            raise UserError(f"task.{key}=true: perplexity is measured of each token after those of the text before it")
    if config.criterion._name == "adaptive_loss" and not config.model.adaptive_softmax_cutoff:
        raise UserError("criterion=adaptive_loss needs model.adaptive_softmax_cutoff; a full softmax: cross_entropy")
    if config.dataset.max_tokens is not None and config.dataset.max_tokens < segment:
        raise UserError(f"dataset.max_tokens={config.dataset.max_tokens}: a segment has {segment} tokens")
    if config.lr_scheduler._name == "cosine":
        _check_cosine(config)


def _check_cosine(config: DictConfig) -> None:
    """What fairseq's cosine schedule needs; it would say so in an assertion, or divide by zero."""
    updates, warmup = config.optimization.max_update, config.lr_scheduler.warmup_updates
    if len(config.optimization.lr) > 1:
        raise UserError(f"optimization.lr={config.optimization.lr}: the cosine schedule starts from a single rate")
    if config.lr_scheduler.lr_period_updates <= 0 and updates <= warmup:
        raise UserError(
            f"optimization.max_update={updates}: at that update the learning rate has fallen to 0, so that more than "
            f"lr_scheduler.warmup_updates={warmup} are needed"
        )
    if config.optimization.lr[0] <= config.lr_scheduler.min_lr:
        raise UserError(f"optimization.lr={config.optimization.lr}: above lr_scheduler.min_lr is needed")


def check_corpus(_config: DictConfig, _corpus: PreparedText) -> None:
    """Refuse a corpus that the model cannot take; any text can be cut into segments."""


def evaluate(
    config: DictConfig, checkpoint: Path, corpus: PreparedText, output: Path
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, float]]:
    """Measure the perplexity of the test set, and leave every token's log-probability in the file ``output``.

    Returns:
        Under ``test``, the metrics as they stand in a record, and how long it took: ``seconds`` and
        ``tokens_per_second``.
    """
    causal = is_causal(config.model.norm, config.model.get("causal", True))
    metrics, speed = measure(checkpoint, corpus.bin_dir, _windows(config), causal, config.common.cpu, output)
    return {"test": {name: asdict(value) for name, value in metrics.items()}}, speed


def keep_translations(_config: DictConfig, _corpus: PreparedText, _output: Path, _kept: Path) -> bool:
    """Write nothing, since a language model translates nothing; returns False."""
    return False


def bare_task(settings: DictConfig, dictionary: Dictionary) -> LanguageModelingTask:
    """The task of these settings without a corpus."""
    return LanguageModelingTask(settings, dictionary)


def made_up_batch(tokens: Tensor) -> dict[str, Any]:
    """A batch as fairseq's datasets make it: segments (B, T), each predicted from the tokens before."""
    lengths = torch.full((len(tokens),), tokens.shape[1])
    return {
        "id": torch.arange(len(tokens)),
        "nsentences": len(tokens),
        "ntokens": tokens.numel(),
        "net_input": {"src_tokens": tokens.roll(1, dims=1), "src_lengths": lengths},
        "target": tokens,
    }


def describe(metric: dict[str, Any]) -> str:
    """A metric of a record, as a line."""
    return str(Perplexity(**metric))


def brief(metrics: Mapping[str, Any]) -> str:
    """The metrics of one test set, in a few words."""
    return f"perplexity {metrics['ppl']['score']:.2f}"


def label(settings: Mapping[str, Any]) -> str:
    """What a reader of any figure of this run has to know: a model that sees the future is no language model."""
    if not settings.get("model.causal", True):
        return SEES_THE_FUTURE
    return "" if is_causal(settings["model.norm"], masked=True) else NORM_SEES_THE_FUTURE


def _windows(config: DictConfig) -> Windows:
    section = config.evaluate
    return Windows(section.segment or config.task.tokens_per_sample, section.context, section.batch_size)
