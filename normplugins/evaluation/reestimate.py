"""Re-estimates the running statistics of a checkpoint on training batches before it is scored (precise BN).

Checkpoint averaging also averages the running statistics. The averages are not exactly the statistics of a model with
the averaged weights. With ``evaluate.recalibrate=N``, the model of the checkpoint reads the first N batches of the
run's first epoch, and the pooled statistics of all their tokens replace the averaged ones. No weight changes.

Dropout is off, as in ``torch.optim.swa_utils.update_bn`` but unlike in training. The statistics must fit the inputs of
the norms at evaluation, and dropout increases the square of an activation by a factor of up to 1 / (1 - p), see
arXiv 1801.05134.

A norm that divides by its batch's statistics in training (``bn``, ``pnv``) does so here too. After its warmup, PN
divides by the running psi of the checkpoint, so the norms above it measure inputs that depend on the old psi.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from omegaconf import DictConfig, OmegaConf

from normplugins.evaluation.loading import load_model
from normplugins.models.norm_settings import all_norm_names
from normplugins.norms import has_statistics, reestimate, running_statistics
from normplugins.training import checkpoint_seal, checkpoints
from normplugins.training.batches import bucket_by_length
from normplugins.training.distributed import on_cpu
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256
from normplugins.utils.steps import progress


def recalibration_batches(config: DictConfig) -> int:
    """Return ``evaluate.recalibrate``, with 0 for null and for older configs, which do not have the key."""
    return OmegaConf.select(config, "evaluate.recalibrate") or 0


def check(config: DictConfig) -> None:
    """Raise UserError for ``evaluate.recalibrate`` if no norm of the model has running statistics."""
    norms = all_norm_names(config.model)
    if recalibration_batches(config) and not any(map(has_statistics, norms)):
        raise UserError(
            f"evaluate.recalibrate={recalibration_batches(config)}: no norm of this model ({', '.join(norms)}) has "
            "running statistics, so this setting has no effect: leave it out"
        )


def checkpoint_to_score(config: DictConfig, checkpoint: Path, bin_dir: Path, directory: Path) -> Path:
    """Return ``checkpoint``, or with ``evaluate.recalibrate`` a copy of it with re-estimated statistics.

    The copy is written to ``directory`` unless it exists. Its name is ``checkpoint_recalibrated.pt`` for the checkpoint
    that the recipe scores, and ``checkpoint_last_recalibrated.pt`` or the like for the others. Its
    ``extra_state["recalibrated"]`` names its source and the number of batches and tokens. Raises UserError if the
    checkpoint cannot be read, or the copy cannot be written.
    """
    if not recalibration_batches(config):
        return checkpoint
    headline = checkpoint.name == checkpoints.scored(directory, config.evaluate.average).name
    destination = directory / (checkpoints.RECALIBRATED if headline else f"{checkpoint.stem}_recalibrated.pt")
    state = checkpoints.load(checkpoint)
    source = {
        "from": checkpoint.name,
        "updates": state["optimizer_history"][-1]["num_updates"],
        "asked": recalibration_batches(config),
        "sha256": sha256(checkpoint),
    }
    with suppress(UserError, KeyError):  # missing or damaged
        if source.items() <= checkpoints.load(destination)["extra_state"]["recalibrated"].items():
            return destination
    statistics, seen = measure(config, checkpoint, bin_dir)
    for name, value in statistics.items():
        state["model"][name] = value.to(state["model"][name].dtype)
    state.pop("last_optimizer_state", None)
    averaged = state["extra_state"].get("averaged_from")
    seal = {"run": checkpoint_seal.identity_of(state)}
    state["extra_state"] = {"averaged_from": averaged, "recalibrated": source | seen, "seal": seal}
    checkpoints.write(state, destination)
    print(f"re-estimated the running statistics on {seen['batches']} batches ({seen['tokens']:,} tokens)")
    return destination


def measure(config: DictConfig, checkpoint: Path, bin_dir: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Measure the statistics of a checkpoint's model on up to ``evaluate.recalibrate`` batches of one epoch.

    Returns the statistics by full name, on the CPU, and the numbers of ``batches`` and of ``tokens``. These are source
    tokens (of a language model: tokens of the text) without padding.
    """
    model, task = load_model(checkpoint, bin_dir, config.common.cpu)
    for name in running_statistics(model):
        model.get_submodule(name.rpartition(".")[0]).train()
    utils.set_torch_seed(config.common.seed)
    seen = {"batches": 0, "tokens": 0}
    batches = islice(training_batches(config, task, model.max_positions()), recalibration_batches(config))
    with torch.no_grad(), reestimate(model):
        for sample in progress(batches, "re-estimating running statistics", total=recalibration_batches(config)):
            inputs = (sample if on_cpu(config) else utils.move_to_cuda(sample))["net_input"]
            model.extract_features(**inputs)
            seen["batches"] += 1
            seen["tokens"] += int(inputs["src_tokens"].ne(task.source_dictionary.pad()).sum())
    return {name: value.cpu() for name, value in running_statistics(model).items()}, seen


def training_batches(config: DictConfig, task: Any, longest: Any) -> Iterator[dict[str, Any]]:
    """Return the batches of the run's first epoch on one process, in the same order.

    With a curriculum, that epoch is not shuffled, but these batches are. ``longest`` is the model's
    ``max_positions()``.
    """
    dataset = config.dataset
    if config.train.bucket_by_length:
        bucket_by_length(task, dataset.train_subset)
    task.load_dataset(dataset.train_subset, epoch=1, combine=True)
    epochs = task.get_batch_iterator(
        dataset=task.dataset(dataset.train_subset),
        max_tokens=dataset.max_tokens,
        max_sentences=dataset.batch_size,
        max_positions=utils.resolve_max_positions(task.max_positions(), longest, dataset.max_tokens),
        ignore_invalid_inputs=True,
        required_batch_size_multiple=dataset.required_batch_size_multiple,
        seed=config.common.seed,
        epoch=1,
    )
    return iter(epochs.next_epoch_itr(shuffle=True))


def provenance(config: DictConfig, checkpoint: Path, made_from: list[str]) -> dict[str, Any] | None:
    """Return the record's entry on how the running statistics were obtained; None for a model without any.

    ``checkpoint`` is the scored checkpoint; ``made_from`` names the checkpoints that were averaged.
    """
    norms = [name for name in all_norm_names(config.model) if has_statistics(name)]
    if not norms:
        return None
    found = {"norms": norms, "from": made_from, "obtained": "averaged" if config.evaluate.average else "as trained"}
    if recalibration_batches(config):
        source = checkpoints.load(checkpoint)["extra_state"]["recalibrated"]
        found |= {"obtained": "measured", "batches": source["batches"], "tokens": source["tokens"]}
    return found
