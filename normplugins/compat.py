"""Makes fairseq 0.12.2 work on Python >= 3.11, PyTorch >= 2.6, NumPy 2 and Hydra 1.3.

``import normplugins`` installs a finder that patches fairseq when it is imported. fairseq's files are not changed.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


class FairseqFinder(MetaPathFinder):
    """Imports fairseq with hashable dataclasses and patches it afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the package ``fairseq``, whose loader patches it; None for every other module.

        Raises:
            ModuleNotFoundError: instead of fairseq there is a folder of that name, which Python would import.
        """
        if fullname != "fairseq":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is None:  # fairseq is not installed
            return None
        if spec.loader is None:  # only a folder of that name, such as a clone of fairseq's repository
            folder = next(iter(spec.submodule_search_locations or ()), "")
            raise ModuleNotFoundError(f"fairseq is not installed: {folder} is not a package", name="fairseq")
        original: Callable[[ModuleType], None] = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with lazy_wandb(), hashable_dataclasses():
                original(module)
            patch_fairseq()

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def install() -> None:
    """Patch fairseq when it is imported, or now if it has been imported already."""
    _silence_deprecation_warnings()
    if "fairseq" in sys.modules:
        patch_fairseq()
    else:
        sys.meta_path.insert(0, FairseqFinder())


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python itself reads such names of every module
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def lazy_wandb() -> Iterator[None]:
    """Make ``import wandb`` inside the ``with`` block lazy: wandb is imported when an attribute is first read.

    fairseq imports wandb whether it is used or not, which takes half a second.
    """
    lazy = "wandb" not in sys.modules and importlib.util.find_spec("wandb") is not None
    if lazy:
        sys.modules["wandb"] = _LazyModule("wandb")
    try:
        yield
    finally:
        if lazy:
            del sys.modules["wandb"]


@contextlib.contextmanager
def hashable_dataclasses() -> Iterator[None]:
    """Make the dataclasses that fairseq's modules define inside the ``with`` block hashable.

    fairseq writes ``common: CommonConfig = CommonConfig()``. Since Python 3.11, dataclasses reject an unhashable
    default as mutable; ``unsafe_hash`` adds a hash. Nothing else about the class changes.
    """
    original: Callable[..., Any] = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(decorated: type) -> Any:
            if decorated.__module__.partition(".")[0] == "fairseq":
                options.setdefault("unsafe_hash", True)
            return original(decorated, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


def patch_fairseq() -> None:
    """Apply the patches below to fairseq 0.12.2."""
    _hash_plugins_dataclasses()
    _allow_checkpoint_classes()
    _replace_removed_names()
    _disable_encoder_fast_path()
    _disable_nan_detector()
    _allow_data_parallel_on_cpu()
    _register_with_user_dir()
    _register_for_checkpoints()


def _hash_plugins_dataclasses() -> None:
    """Make later subclasses of FairseqDataclass hashable too, so that plugins can nest them as fairseq does."""
    base: Any = importlib.import_module("fairseq.dataclass").FairseqDataclass

    def add_hash(cls: type, /, **options: Any) -> None:
        super(base, cls).__init_subclass__(**options)
        cls.__hash__ = object.__hash__  # type: ignore[assignment]

    base.__init_subclass__ = classmethod(add_hash)


def _allow_checkpoint_classes() -> None:
    """Allow ``torch.load`` to read fairseq's checkpoints without unpickling arbitrary code.

    Since PyTorch 2.6 ``torch.load`` builds only tensors and plain containers. fairseq's checkpoints contain one more
    class, the ``argparse.Namespace`` of stock command lines. Every other class is still refused.
    """
    import torch

    torch.serialization.add_safe_globals([argparse.Namespace])


def why_refused(error: Exception) -> str:
    """Return why PyTorch did not load a file. PyTorch's own message advises unpickling it anyway."""
    if named := re.search(r"GLOBAL ((?:\w+\.)+\w+)", str(error)):  # a text that begins with c names no module
        return f"loading it would run the code {named.group(1)}. Load only checkpoints whose origin you know"
    first = "" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0].rstrip(".")
    return "it is damaged or not a checkpoint" + (f" ({first})" if first else "")


def _replace_removed_names() -> None:
    """Restore the names of NumPy 1 and bitarray 2 that fairseq uses and newer versions have removed."""
    bits: Any = importlib.import_module("bitarray.util")
    if not hasattr(bits, "rindex"):
        bits.rindex = lambda array, value: array.find(value, right=True)
    numpy: Any = importlib.import_module("numpy")

    def percentile(values: Any, percentages: Any, *, interpolation: str) -> Any:
        return numpy.percentile(values, percentages, method=interpolation)

    numpy_1 = ModuleType("numpy")
    vars(numpy_1).update(vars(numpy), compat=SimpleNamespace(long=int), int=int, float=float, percentile=percentile)
    for name in ("data.token_block_dataset", "data.language_pair_dataset", "data.data_utils"):
        vars(importlib.import_module(f"fairseq.{name}"))["np"] = numpy_1


def _disable_encoder_fast_path() -> None:
    """Disable PyTorch's fused layer in fairseq's own encoders: it now needs an argument that fairseq does not pass.

    At evaluation a post-norm ``--arch transformer`` would fail with the error "Mask Type should be defined".
    """
    layer: Any = importlib.import_module("fairseq.modules.transformer_layer").TransformerEncoderLayerBase
    original = layer.__init__

    def initialize(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self.can_use_fastpath = False

    layer.__init__ = initialize


def _disable_nan_detector() -> None:
    """Disable fairseq's NanDetector.

    When a step is not finite, fairseq repeats it with hooks that name the layer. PyTorch >= 2 cannot run these hooks on
    an encoder whose output is a dict of lists, so the run would end with an unrelated error.
    """
    vars(importlib.import_module("fairseq.trainer"))["NanDetector"] = contextlib.nullcontext


def _allow_data_parallel_on_cpu() -> None:
    """Allow fairseq to train on the CPU in several processes.

    fairseq always passes ``device_ids`` to ``DistributedDataParallel``, which rejects them for a model on the CPU.
    """
    import torch

    module: Any = importlib.import_module("fairseq.models.distributed_fairseq_model")
    original = torch.nn.parallel.DistributedDataParallel

    def wrapped(module: torch.nn.Module, **options: Any) -> torch.nn.Module:
        if not next(module.parameters()).is_cuda:
            options.update(device_ids=None, output_device=None)
        return original(module, **options)

    module.DistributedDataParallel = wrapped


def _register_with_user_dir() -> None:
    """Make ``--user-dir normplugins`` work in any folder, even if this package was imported before fairseq.

    fairseq expects a path, imports that folder, and does nothing if a package of the folder's name is already imported.
    """
    utils: Any = importlib.import_module("fairseq.utils")
    original = utils.import_user_module

    def import_user_module(args: Any) -> None:
        user_dir = (getattr(args, "user_dir", None) or "").rstrip("/")
        if user_dir != "normplugins":
            original(args)
        if user_dir.endswith("normplugins"):
            importlib.import_module("normplugins").register()

    utils.import_user_module = import_user_module


def _register_for_checkpoints() -> None:
    """Register our models when a checkpoint of one is loaded without ``--user-dir``.

    For an unknown model, fairseq fails to format its own error message and raises a KeyError.
    """
    models: Any = importlib.import_module("fairseq.models")
    original = models.build_model

    def build_model(cfg: Any, task: Any, from_checkpoint: bool = False) -> Any:
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        if name and name not in models.ARCH_MODEL_REGISTRY:
            importlib.import_module("normplugins").register()
            if name not in models.ARCH_MODEL_REGISTRY:
                error = importlib.import_module("normplugins.utils.errors").UserError
                raise error(f"fairseq has no model '{name}': pass the folder that registers it with --user-dir")
        return original(cfg, task, from_checkpoint)

    models.build_model = build_model


def _silence_deprecation_warnings() -> None:
    """Hide warnings that users cannot act on: fairseq's use of deprecated interfaces, and one missing package."""
    for start in (
        r"hydra\.experimental\.",
        r"In 'config': Usage of deprecated keyword in package header",
        r"\s*'config' is validated against ConfigStore schema",
        r"\s*The strict flag in the compose API",
        r"\s*The version_base parameter is not specified",
        r"`torch\.cuda\.amp\.",
        r"`broadcast_buffers` is deprecated",
        r"Support for mismatched key_padding_mask and attn_mask is deprecated",
        r"'pin_memory' argument is set as true but no accelerator",
    ):
        warnings.filterwarnings("ignore", message=start)
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)  # it warns that tensorboardX is missing
