"""Measures the running statistics of the model that is scored anew, on batches of its own training text.

A run is mostly scored by the mean of several checkpoints, and its running statistics are averaged with the weights
(:func:`normplugins.training.checkpoints.average`). Such a mean is not exactly what the averaged weights would
measure. With ``evaluate.recalibrate=N`` they do measure it: the model of the checkpoint reads the first N batches of
the run's first epoch, and the statistics over all their tokens, pooled, take the place of the averaged ones. Nothing is
learnt: no gradient, no weight changes.

Dropout is off, though training has it on (and so has ``torch.optim.swa_utils.update_bn``). The statistics are to fit
what the norms are given at evaluation, and dropout leaves the mean of an activation as it is but makes its square
greater, by up to 1 / (1 - p): arXiv 1801.05134.

A norm that divides by its batch in training (``bn``, ``pnv``) hands on here what it hands on in training. PN after its
warmup divides by the running psi it came with, so that a norm further up measures what it gets below the *old* psi.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq import checkpoint_utils, utils
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

import normplugins
from normplugins.models.placement import norm_names
from normplugins.norms import has_statistics, reestimate, running_statistics
from normplugins.training import checkpoints
from normplugins.training.distributed import on_cpu
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256

NORM_KEYS = ("encoder_norm", "decoder_norm", "norm")  # of the models' settings


def norms_with_statistics(config: DictConfig) -> list[str]:
    """The norms of the run's model that keep running statistics, each once."""
    return [name for name in _norms(config) if has_statistics(name)]


def _norms(config: DictConfig) -> list[str]:
    """The norms of the run's model, each once, those at the end of its stacks too."""
    return list(dict.fromkeys(map(str, norm_names(config.model, NORM_KEYS).values())))


def check(config: DictConfig) -> None:
    """Refuse ``evaluate.recalibrate`` for a model that it would not change.

    Raises:
        UserError: no norm of the model keeps running statistics.
    """
    if asked(config) and not norms_with_statistics(config):
        raise UserError(
            f"evaluate.recalibrate={asked(config)}: no norm of this model ({', '.join(_norms(config))}) keeps running "
            "statistics, so that nothing would change: leave it out"
        )


def asked(config: DictConfig) -> int:
    """On how many batches the statistics are to be measured; 0: not at all. Configs of older runs do not say."""
    return OmegaConf.select(config, "evaluate.recalibrate") or 0


def recalibrated(config: DictConfig, checkpoint: Path, bin_dir: Path, directory: Path) -> Path:
    """The checkpoint to score: ``checkpoint``, or one with its weights and statistics measured anew.

    The latter is written to ``directory``, unless that is done: as ``checkpoint_recalibrated.pt`` where it is made of
    the checkpoint that the recipe goes by, otherwise as ``checkpoint_last_recalibrated.pt`` and the like. Its
    ``extra_state`` says under ``recalibrated`` which checkpoint it was made from, and on how many batches and tokens.

    Args:
        config: the run's, with ``evaluate.recalibrate``.
        checkpoint: what is scored otherwise.
        bin_dir: the binarised corpus.
        directory: the run's folder, or any other.

    Raises:
        UserError: the checkpoint cannot be read, or the new one cannot be written.
    """
    if not asked(config):
        return checkpoint
    headline = checkpoint.name == checkpoints.scored(directory, config.evaluate.average).name
    destination = directory / (checkpoints.RECALIBRATED if headline else f"{checkpoint.stem}_recalibrated.pt")
    state = checkpoints.load(checkpoint)
    made = {"from": checkpoint.name, "updates": state["optimizer_history"][-1]["num_updates"], "asked": asked(config)}
    made["sha256"] = sha256(checkpoint)
    if destination.exists() and made.items() <= checkpoints.load(destination)["extra_state"]["recalibrated"].items():
        return destination
    statistics, seen = measure(config, checkpoint, bin_dir)
    for name, value in statistics.items():
        state["model"][name] = value.to(state["model"][name].dtype)
    state.pop("last_optimizer_state", None)
    averaged = state["extra_state"].get("averaged_from")
    state["extra_state"] = {"averaged_from": averaged, "recalibrated": made | seen}
    checkpoints.write(state, destination)
    print(f"measured the running statistics anew on {seen['batches']} batches ({seen['tokens']:,} tokens)")
    return destination


def measure(
    config: DictConfig, checkpoint: Path, bin_dir: Path, dropout: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Measure the statistics of a checkpoint's model on ``evaluate.recalibrate`` batches, or on an epoch's if fewer.

    Args:
        config: the run's, which says what a batch is and the seed of their order.
        checkpoint: of the run.
        bin_dir: the binarised corpus.
        dropout: whether dropout is on, as in training.

    Returns:
        The statistics by their full names, on the CPU; ``batches``, and ``tokens`` of the source (of a language model:
        of the text) without padding.
    """
    normplugins.register()
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
    )
    cuda = not on_cpu(config)
    model.to("cuda" if cuda else "cpu").train(dropout)
    for name in running_statistics(model):
        model.get_submodule(name.rpartition(".")[0]).train()
    utils.set_torch_seed(config.common.seed)
    console, seen = Console(), {"batches": 0, "tokens": 0}
    batches = islice(training_batches(config, task, model), asked(config))
    with torch.no_grad(), reestimate(model):
        for sample in track(batches, "measuring statistics", console=console, disable=not console.is_terminal):
            inputs = (utils.move_to_cuda(sample) if cuda else sample)["net_input"]
            model.extract_features(**inputs)
            seen["batches"] += 1
            seen["tokens"] += int(inputs["src_tokens"].ne(task.source_dictionary.pad()).sum())
    return {name: value.cpu() for name, value in running_statistics(model).items()}, seen


def training_batches(config: DictConfig, task: Any, model: Any) -> Iterator[dict[str, Any]]:
    """The batches of the run's first epoch on one process, in its order; shuffled even under a curriculum."""
    dataset = config.dataset
    task.load_dataset(dataset.train_subset, epoch=1, combine=True)
    limits = utils.resolve_max_positions(task.max_positions(), model.max_positions(), dataset.max_tokens)
    epochs = task.get_batch_iterator(
        dataset=task.dataset(dataset.train_subset),
        max_tokens=dataset.max_tokens,
        max_sentences=dataset.batch_size,
        max_positions=limits,
        ignore_invalid_inputs=True,
        required_batch_size_multiple=dataset.required_batch_size_multiple,
        seed=config.common.seed,
        epoch=1,
    )
    return iter(epochs.next_epoch_itr(shuffle=True))


def described(config: DictConfig, checkpoint: Path, made_from: list[str]) -> dict[str, Any] | None:
    """How the running statistics that are scored came about, for the record; None for a model without.

    Args:
        config: the run's.
        checkpoint: the one that is scored.
        made_from: the checkpoints whose weights it has the mean of.
    """
    norms = norms_with_statistics(config)
    if not norms:
        return None
    found: dict[str, Any] = {"norms": norms, "from": made_from}
    if asked(config):
        made = checkpoints.load(checkpoint)["extra_state"]["recalibrated"]
        return found | {"obtained": "measured", "batches": made["batches"], "tokens": made["tokens"]}
    return found | {"obtained": "averaged" if config.evaluate.average else "as trained"}
