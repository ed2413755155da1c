"""Compatibility of fairseq 0.12.2 with Python >= 3.11, PyTorch >= 2.6 and Hydra 1.3: import this before fairseq."""

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

    fairseq writes ``common: CommonConfig = CommonConfig()``. Since Python 3.11, dataclasses reject a default whose
    class has no hash as mutable; ``unsafe_hash`` adds one. Nothing else about the class changes.
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
    """Allow ``torch.load`` to read fairseq's checkpoints without unpickling arbitrary code.

    Since PyTorch 2.6 ``torch.load`` builds only tensors and plain containers. fairseq's checkpoints contain one more
    class, the ``argparse.Namespace`` of stock command lines. Every other class is still refused.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


def _silence_deprecation_warnings() -> None:
    """Hide the warnings about fairseq's use of old interfaces of Hydra and PyTorch, which users cannot change."""
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
    """Hide the notice about a missing tensorboardX that fairseq prints whenever it is imported."""
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)


def without_nan_detector() -> None:
    """Disable fairseq's NanDetector; call this after fairseq is imported.

    When a step is not finite, fairseq repeats it with hooks that name the layer. PyTorch >= 2 cannot run these hooks on
    an encoder whose output is a dict of lists, so the run would end with an unrelated error.
    """
    trainer: Any = importlib.import_module("fairseq.trainer")
    trainer.NanDetector = contextlib.nullcontext


def without_device_ids() -> None:
    """Allow fairseq to train on the CPU in several processes; call this after fairseq is imported.

    fairseq always passes ``device_ids`` to ``DistributedDataParallel``, which rejects them for a model on the CPU.
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
