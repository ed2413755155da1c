"""Refuses configs that cannot work or that have settings without effect, before anything is downloaded or trained."""

import os
import re
import shutil
import sys
from math import inf, isfinite

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from normplugins.corpora import corpus_config
from normplugins.evaluation import reestimate
from normplugins.evaluation.tasks import run_task
from normplugins.models.check import check_model
from normplugins.norms.backends.dispatch import why_not_triton
from normplugins.runs.cell import flatten
from normplugins.runs.fairseq_keys import check_fairseq_keys
from normplugins.runs.settings import SETTINGS_BY_TASK, SlurmSettings, declared
from normplugins.training.distributed import launched, on_cpu, sees_own_gpu, world_size
from normplugins.training.optimizer import check_adam
from normplugins.training.tracking import check_installed
from normplugins.utils.errors import UserError
from normplugins.utils.paths import without_colon
from normplugins.utils.settings import invalid_value

# PyTorch 2.6 and 2.10 cannot trace the backward of PN, and the versions in between have not been tried.
COMPILES_FROM = "2.13"
# Ranges (minimum, maximum) of fairseq's keys, or of each number in their lists; null is always allowed here.
RANGES = {
    (-1, inf): "checkpoint.patience",
    (0, inf): "dataset.num_workers optimization.max_epoch optimization.max_update optimization.lr "
    "optimization.clip_norm optimizer.adam_eps optimizer.weight_decay criterion.ignore_prefix_size "
    "lr_scheduler.warmup_updates lr_scheduler.min_lr lr_scheduler.lr_shrink",
    (0, 1): "criterion.label_smoothing lr_scheduler.lr_decay",
    (1, inf): "common.log_interval dataset.max_tokens dataset.batch_size dataset.max_tokens_valid "
    "dataset.batch_size_valid dataset.required_batch_size_multiple dataset.required_seq_len_multiple "
    "lr_scheduler.t_mult lr_scheduler.lr_deacy_period "  # sic: fairseq misspells "decay"
    "optimization.update_freq task.tokens_per_sample task.max_source_positions task.max_target_positions",
}


def check(config: DictConfig) -> None:
    """Raise UserError for a config that cannot work or has keys without effect; it says what is needed instead."""
    corpus_config(config.corpus).check()
    check_values(config)
    check_schedule(config)
    check_installed(config.tracking.name)
    if not re.fullmatch(r"\w[\w.-]*", config.experiment):
        raise UserError(f"experiment={config.experiment} names a folder: use only letters, digits, '.', '_' and '-'")
    if not config.run_dir:
        raise UserError("run_dir=null: a run needs a folder")
    for key in ("data_dir", "run_dir"):
        without_colon(key, config[key])
    if config.dataset.max_tokens is None and config.dataset.batch_size is None:
        raise UserError("dataset.max_tokens and dataset.batch_size are null: set one of them to limit a batch")
    check_model(config.model)
    if config.train.compile:
        check_compiling(config)
    if config.norm.kernels == "triton":
        check_triton(config)
    check_fairseq_keys(config)
    if not config.dry_run:  # a dry run may be for another machine
        check_processes(config)
        if config.precision == "bf16":
            check_bfloat16(on_cpu(config))
    if not (config.checkpoint.patience > 0 or config.optimization.max_epoch or config.optimization.max_update):
        raise UserError("nothing ends this run: set checkpoint.patience, optimization.max_epoch or .max_update")


def check_bfloat16(cpu: bool) -> None:
    """Refuse ``precision=bf16`` on a device without bfloat16 arithmetic, where it would be slower than float32."""
    if cpu and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        missing = "this processor has neither avx512_bf16 nor AMX"
    elif not cpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        missing = f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic"
    else:
        return
    raise UserError(f"precision=bf16: {missing}: it would be slower here than precision=float32")


def check_processes(config: DictConfig) -> None:
    """Refuse more processes than this machine has GPUs, and numbers of processes that contradict each other."""
    if config.hardware.name.startswith("gpu") and not torch.cuda.is_available():
        raise UserError(f"hardware={config.hardware.name}, but PyTorch sees no GPU here. For the CPU, set hardware=cpu")
    member, asked = launched(), config.hardware.processes
    if member and asked not in (1, member.local_size):
        raise UserError(
            f"hardware.processes={asked}, but the launcher started {member.local_size} processes on this machine"
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
            f"{here} processes on this machine (hardware.processes) need one GPU each, but PyTorch sees "
            f"{torch.cuda.device_count()}. Under srun, --gpus-per-task=1 gives each process a GPU. To use the CPU, set "
            f"hardware=cpu hardware.processes={here}"
        )


def check_schedule(config: DictConfig) -> None:
    """Refuse a learning-rate schedule that fairseq cannot build."""
    scheduler, rates = config.lr_scheduler, list(config.optimization.lr)
    name, warmup = scheduler._name, scheduler.get("warmup_updates", 0)
    if name in ("inverse_sqrt", "cosine") and len(rates) > 1:
        raise UserError(f"optimization.lr={rates}: lr_scheduler={name} needs a single number")
    if name == "inverse_sqrt" and warmup < 1:
        raise UserError(f"lr_scheduler.warmup_updates={warmup}: lr_scheduler={name} needs at least 1")
    if name == "cosine" and scheduler.lr_period_updates <= 0 and (last := scheduler.max_update or 0) <= warmup:
        section = "optimization" if scheduler.max_update == config.optimization.max_update else "lr_scheduler"
        raise UserError(
            f"{section}.max_update={last}: lr_scheduler={name} needs more than lr_scheduler.warmup_updates={warmup}"
        )
    if rates[0] <= scheduler.get("min_lr", -1):
        raise UserError(f"optimization.lr={rates}: lr_scheduler={name} needs more than lr_scheduler.min_lr")


def check_triton(config: DictConfig) -> None:
    """Refuse ``norm.kernels=triton`` without Triton or a GPU; a job of Slurm is checked where it runs."""
    here = config.dry_run or config.hardware.name != "slurm"
    if here and (reason := why_not_triton(on_gpu=not on_cpu(config))):
        raise UserError(f"norm.{reason}")


def check_compiling(config: DictConfig) -> None:
    """Refuse ``train.compile=true`` for a model that cannot be compiled, or without a compiler."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    reasons = {
        f"PyTorch {COMPILES_FROM} or newer is needed; this is {torch.__version__}": torch.__version__ < COMPILES_FROM,
        "model.checkpoint_activations=true runs each layer twice": config.model.get("checkpoint_activations"),
        "norm.sync=batch exchanges statistics between processes inside the layers": (
            config.norm.sync == "batch" and world_size(config) > 1
        ),
        f"there is no C++ compiler '{compiler}' here (set CXX to use another one)": (
            on_cpu(config) and not config.dry_run and shutil.which(compiler) is None
        ),
        f"PyTorch passes its own path to the compiler unquoted, and the path has a space: {torch.__file__}": (
            on_cpu(config) and " " in torch.__file__
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"train.compile=true: {reason}. train.compile=false runs the same model")


def check_values(config: DictConfig) -> None:
    """Refuse values that are out of range or contradict each other or the model; raises as :func:`check` does."""
    for key, value in flatten(config):
        if any(isinstance(one, float) and not isfinite(one) for one in (value if isinstance(value, list) else [value])):
            raise UserError(f"{key} is {value}, but must be a finite number")
    settings = list(declared(SETTINGS_BY_TASK[config.task._name]))
    if "slurm" in config.hardware:
        settings += [(f"hardware.slurm.{key}", each) for key, each in declared(SlurmSettings)]
    for key, each in settings:
        value = OmegaConf.select(config, key)
        if value is not None and (message := invalid_value(each, value, key.removesuffix(each.name))):
            raise UserError(message)
    for (least, most), keys in RANGES.items():
        for key in keys.split():
            value = OmegaConf.select(config, key)
            values = value if isinstance(value, ListConfig) else [value]
            numbers = [least if one is None else one for one in values]
            if not numbers or min(numbers) < least:
                raise UserError(f"{key} is {value}, but must be at least {least}")
            if max(numbers) > most:
                raise UserError(f"{key} is {value}, but must be at most {most}")
    if "adam_betas" in config.optimizer:
        check_adam(config.optimizer)
    if "max_length_a" in config.evaluate and config.evaluate.max_length_a == config.evaluate.max_length_b == 0:
        raise UserError("evaluate.max_length_a and evaluate.max_length_b are 0: a translation needs at least 1 token")
    reestimate.check(config)
    run_task(config.task._name).check(config)
