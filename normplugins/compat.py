"""Lets fairseq 0.12.2 import and run on Python >= 3.11, PyTorch >= 2.6 and Hydra 1.3: import it before fairseq."""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

FAIRSEQ_PACKAGES = ("fairseq", "fairseq_cli")


def _hash_fairseq_dataclasses() -> None:
    """Make instances of fairseq's dataclasses hashable.

    fairseq writes ``common: CommonConfig = CommonConfig()``. Since Python 3.11 a default whose class has no hash
    counts as mutable and is refused; ``unsafe_hash`` gives it one. Nothing else about the class changes.
    """
    original: Callable[..., Any] = dataclasses.dataclass

    @functools.wraps(original)
    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(decorated: type) -> Any:
            if decorated.__module__.partition(".")[0] in FAIRSEQ_PACKAGES:
                options.setdefault("unsafe_hash", True)
            return original(decorated, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass


def _allow_checkpoint_classes() -> None:
    """Let ``torch.load`` read fairseq's checkpoints without unpickling arbitrary code.

    Since PyTorch 2.6 ``torch.load`` builds tensors and plain containers only. fairseq's checkpoints hold one class
    beside these, the ``argparse.Namespace`` of stock command lines. Whatever else a file names is still refused.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


def _silence_deprecation_warnings() -> None:
    """Hide what Hydra 1.3 and PyTorch say about the older interfaces that fairseq uses: the user cannot change it."""
    for start in (
        r"hydra\.experimental\.",
        r"In 'config': Usage of deprecated keyword in package header",
        r"\s*'config' is validated against ConfigStore schema",
        r"\s*The strict flag in the compose API",
        r"\s*The version_base parameter is not specified",
        r"`torch\.cuda\.amp\.",
        r"`broadcast_buffers` is deprecated",
        r"'pin_memory' argument is set as true but no accelerator",
    ):
        warnings.filterwarnings("ignore", message=start)


def _silence_tensorboard_notice() -> None:
    """Importing fairseq announces that tensorboardX is missing, whatever one is about to do."""
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)


def without_nan_detector() -> None:
    """Take out fairseq's NanDetector; to be called once fairseq is imported.

    After a step that is not finite, fairseq repeats it with hooks that name the layer. PyTorch >= 2 cannot run these
    hooks on an encoder whose output is a dict of lists, and the run ends with their error instead of its own.
    """
    trainer: Any = importlib.import_module("fairseq.trainer")
    trainer.NanDetector = contextlib.nullcontext


def without_device_ids() -> None:
    """Let fairseq wrap a model on the CPU for several processes; to be called once fairseq is imported.

    It always names a GPU to ``DistributedDataParallel``, which refuses one for a model that is on none.
    """
    module: Any = importlib.import_module("fairseq.models.distributed_fairseq_model")
    original = torch.nn.parallel.DistributedDataParallel

    def wrapped(module: torch.nn.Module, **options: Any) -> torch.nn.Module:
        if not next(module.parameters()).is_cuda:
            options.update(device_ids=None, output_device=None)
        return original(module, **options)

    module.DistributedDataParallel = wrapped


_hash_fairseq_dataclasses()
_allow_checkpoint_classes()
_silence_deprecation_warnings()
_silence_tensorboard_notice()
