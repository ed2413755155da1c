"""Refuses configs that cannot work or that have settings without effect, before anything is downloaded or trained."""

import os
import re
import shutil
import sys

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from normplugins.corpora import corpus_config
from normplugins.evaluation import reestimate
from normplugins.evaluation.tasks import kind_of
from normplugins.models.config import check_model
from normplugins.norms import all_settings
from normplugins.runs.compose import fairseq_defaults
from normplugins.runs.settings import OF_TASK, declared
from normplugins.training import statistics_probe
from normplugins.training.distributed import launched, on_cpu, sees_own_gpu, world_size
from normplugins.utils.errors import UserError
from normplugins.utils.settings import invalid_value

# Keys that only fairseq's own command line reads: they have no effect on our training.
_UNUSED = {
    "optimization": "stop_time_hours",
    "dataset": "validate_interval validate_interval_updates validate_after_updates disable_validation max_valid_steps "
    "fixed_validation_seed",
    "checkpoint": "best_checkpoint_metric maximize_best_checkpoint_metric no_save save_interval save_interval_updates "
    "keep_interval_updates keep_last_epochs keep_best_checkpoints no_epoch_checkpoints no_last_checkpoints "
    "finetune_from_model restore_file continue_once",
    "common": "log_file log_format tensorboard_logdir wandb_project",
}
UNUSED = tuple(f"{section}.{key}" for section, keys in _UNUSED.items() for key in keys.split())
# Older versions have not been tested with PN, except that 2.6 fails on sentences of different lengths.
COMPILES_FROM = "2.13"
# The smallest values of fairseq's keys, and of each number in their lists; null is always allowed here.
LEAST = {
    "common.log_interval": 1,
    "common.seed": 0,
    "dataset.max_tokens": 1,
    "dataset.batch_size": 1,
    "optimization.max_epoch": 0,
    "optimization.max_update": 0,
    "optimization.lr": 0,
    "optimization.update_freq": 1,
    "lr_scheduler.warmup_updates": 0,
    "task.tokens_per_sample": 1,
}


def check(config: DictConfig) -> None:
    """Refuse a config that cannot work or has keys without effect.

    Raises:
        UserError: the message names the key, its value and what is needed.
    """
    known = {"name", *all_settings()}
    if unknown := sorted(str(key) for key in config.norm if key not in known):
        raise UserError(f"unknown key 'norm.{unknown[0]}'. Known in norm: {', '.join(sorted(known))}")
    corpus_config(config.corpus).check()
    check_values(config)
    if config.seed >= 2**32:
        raise UserError(f"seed={config.seed}: below 2**32 is needed")
    if not re.fullmatch(r"\w[\w.-]*", config.experiment):
        raise UserError(f"experiment={config.experiment} names a folder: letters, digits, '.', '_' and '-' only")
    if not config.run_dir:
        raise UserError("run_dir=null: a run needs a folder")
    if config.dataset.max_tokens is None and config.dataset.batch_size is None:
        raise UserError("dataset.max_tokens and dataset.batch_size are null: set one of them, the size of a batch")
    check_model(config.model)
    if config.train.compile:
        check_compiling(config)
    defaults = fairseq_defaults()
    if unused := [key for key in UNUSED if OmegaConf.select(config, key) != OmegaConf.select(defaults, key)]:
        raise UserError(f"{unused[0]} has no effect here: only fairseq's own command line reads it")
    if not config.dry_run:  # a plan may be for another machine
        check_processes(config)
    if not (config.checkpoint.patience > 0 or config.optimization.max_epoch or config.optimization.max_update):
        raise UserError("nothing ends this run: set checkpoint.patience, optimization.max_epoch or .max_update")


def check_processes(config: DictConfig) -> None:
    """Refuse more processes than this machine has GPUs, and numbers of processes that contradict each other."""
    if config.hardware.name.startswith("gpu") and not torch.cuda.is_available():
        raise UserError(f"hardware={config.hardware.name}, but PyTorch sees no GPU here. hardware=cpu runs without one")
    member, asked = launched(), config.hardware.processes
    if member and asked not in (1, member.local_size):
        raise UserError(
            f"hardware.processes={asked}, and the launcher started {member.local_size} processes on this machine"
        )
    here, size = (member.local_size, member.size) if member else (asked, asked)
    if (given := config.distributed_training.distributed_world_size) != size:
        raise UserError(
            f"distributed_training.distributed_world_size={given} follows from hardware.processes, or from torchrun"
        )
    if config.hardware.name == "slurm" or on_cpu(config) or (member and sees_own_gpu()):
        return
    if here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes on this machine (hardware.processes) need a GPU each, and PyTorch sees "
            f"{torch.cuda.device_count()}. Under srun, --gpus-per-task=1 gives each a GPU; hardware=cpu "
            f"hardware.processes={here} runs them without"
        )


def check_compiling(config: DictConfig) -> None:
    """Refuse ``train.compile=true`` for a model that cannot be compiled, or without a compiler."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    reasons = {
        f"PyTorch {COMPILES_FROM} or newer is needed; this is {torch.__version__}": torch.__version__ < COMPILES_FROM,
        "layers are run twice with model.checkpoint_activations=true": config.model.get("checkpoint_activations"),
        "processes exchange statistics inside the layers with norm.sync=batch": (
            config.norm.sync == "batch" and world_size(config) > 1
        ),
        f"there is no C++ compiler '{compiler}' here (CXX names another)": (
            on_cpu(config) and not config.dry_run and shutil.which(compiler) is None
        ),
        f"PyTorch passes its own folder to the compiler unquoted, and its name has a blank: {torch.__file__}": (
            on_cpu(config) and " " in torch.__file__
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"train.compile=true: {reason}. train.compile=false runs the same model")


def check_values(config: DictConfig) -> None:
    """Refuse values out of range, and values that do not fit each other or the model; raises as :func:`check` does."""
    for key, each in declared(OF_TASK[config.task._name]):
        value = OmegaConf.select(config, key)
        if value is not None and (message := invalid_value(each, value)):
            raise UserError(message.replace(each.name, key, 1))
    for key, bound in LEAST.items():
        value = OmegaConf.select(config, key)
        values = list(value) if isinstance(value, ListConfig) else [value]
        if not values or any(one is not None and one < bound for one in values):
            raise UserError(f"{key} is {value}, and must be at least {bound}")
    reestimate.check(config)
    statistics_probe.is_on(config)
    kind_of(config.task._name).check(config)
