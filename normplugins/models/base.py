"""Base class of the models, and the changes to fairseq that they need: checks of settings and the norms' loss terms."""

import argparse
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from fairseq import criterions, models
from fairseq.models import BaseFairseqModel
from fairseq.trainer import Trainer
from torch import Tensor, nn

import normplugins
from normplugins.models.norm_settings import refuse_loss_scale, refuse_unread_settings
from normplugins.norms import end_update
from normplugins.utils.errors import UserError

ALIGNMENT = "this model returns no attention weights, so words cannot be aligned"

STEPS = "only iterative-refinement models have such steps"


class NormModel(BaseFairseqModel):
    """Base class of the models. It applies pending updates of the norms' statistics when the update number changes.

    fairseq's tasks call :meth:`set_num_updates` before each batch. With fairseq's own trainer, pending statistics
    (``per_update``, ``sync=deferred``) are therefore applied when the next update begins. A trainer that calls this
    method right after an update applies them before validation and checkpoints.
    """

    REFUSED: ClassVar[dict[str, str]] = {
        "print_alignment": ALIGNMENT,
        "replace_unk": ALIGNMENT,
        "load_alignments": ALIGNMENT,
        "retain_dropout": "this model has no dropout at inference",
        "print_step": STEPS,
        "retain_iter_history": STEPS,
    }
    """fairseq's settings of a task or of generation that the model does not support, and why"""
    _updates = 0

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add one argument per setting; switches come as ``--name`` and ``--no-name``.

        fairseq turns a bool with default True into a single ``--name`` that sets it to False, but skips names that the
        parser already has.
        """
        for f in fields(getattr(cls, "__dataclass")):  # set by register_model
            if f.type in (bool, typing.Optional[bool]):  # noqa: UP045
                parser.add_argument(
                    "--" + f.name.replace("_", "-"), action=argparse.BooleanOptionalAction, help=f.metadata.get("help")
                )
        super().add_args(parser)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path: str, checkpoint_file: str | None = None, data_name_or_path: str = ".", **options: Any
    ) -> Any:
        """Load a model as fairseq does, and return its interface for PyTorch Hub.

        For the folder of a run and no ``data_name_or_path``, the default checkpoint is the one that gave the run's
        score, and text is prepared in the same way as the run's corpus. Otherwise ``data_name_or_path`` is the folder
        with the dictionaries, and ``options`` override the checkpoint's settings.

        Raises:
            UserError: the folder holds no checkpoint of a model of this class.
        """
        folder = Path(model_name_or_path)
        if not (folder / "config.yaml").is_file() or data_name_or_path != "." or options.keys() - {"user_dir"}:
            return super().from_pretrained(
                model_name_or_path, checkpoint_file or "model.pt", data_name_or_path, **options
            )
        run = normplugins.load(folder / checkpoint_file if checkpoint_file else folder)
        if not isinstance(run.model, cls):
            raise UserError(f"{folder} holds a {type(run.model).__name__}, not a {cls.__name__}")
        return run.hub_interface()

    @classmethod
    def refuse_settings(cls, settings: Any) -> None:
        """Refuse settings of a task or of generation that fairseq offers and that the model would ignore.

        Raises:
            UserError: the first such setting, and why.
        """
        for key, why in cls.REFUSED.items():
            if (value := getattr(settings, key, None)) not in (None, False):
                raise UserError(f"{key}={value} (--{key.replace('_', '-')}): {why}")

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Prepare for generation or scoring by fairseq's tools.

        Raises:
            UserError: a setting that the model would ignore.
        """
        self.refuse_settings(cfg.task)
        self.refuse_settings(cfg.generation)
        super().prepare_for_inference_(cfg)

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of updates so far; every process must call it with the same number."""
        super().set_num_updates(num_updates)
        if num_updates != self._updates:
            self._updates = num_updates
            end_update(self)


_FOLD_AGAIN = (
    ". Fold a folded checkpoint again from its source; for other checkpoints, name the norm in the stack's own "
    "setting, {attention:pn,ffn:pn,final:NORM}"
)
_REMOVED = {
    "adaptive_softmax_factor": (1.0, ", and uses 1"),
    "decoder_final_norm": ("", _FOLD_AGAIN),
    "final_norm": ("", _FOLD_AGAIN),
}
"""settings of our models that no longer exist: the value that had no effect, and what to do about another one"""
_build_criterion = criterions.build_criterion
_build_model = models.build_model
_init_trainer = Trainer.__init__


def patch_fairseq() -> None:
    """Patch fairseq's tasks and trainer, and so its tools, to check our models and to add the norms' loss terms."""
    criterions.build_criterion = build_criterion
    models.build_model = build_model
    Trainer.__init__ = init_trainer


def init_trainer(trainer: Trainer, cfg: Any, task: Any, model: Any, *arguments: Any, **options: Any) -> None:
    """Initialize fairseq's trainer; refuse to scale the loss of a model whose norms depend on the scale.

    Raises:
        UserError: ``--fp16`` or ``--amp`` with a norm that keeps a statistic of scaled gradients.
    """
    common = getattr(cfg, "common", cfg)  # fairseq also takes a Namespace of the command line's arguments
    scaled = next((name for name in ("fp16", "amp") if getattr(common, name, False)), None)
    if scaled and isinstance(model, NormModel):
        refuse_loss_scale(model.decoder.cfg, f"--{scaled}")
    _init_trainer(trainer, cfg, task, model, *arguments, **options)


def build_model(cfg: Any, task: Any, from_checkpoint: bool = False) -> Any:
    """Build a model as fairseq does, and check the settings unless they come ``from_checkpoint``.

    Raises:
        UserError: a setting of the task that the model would ignore, a norm's setting that is not at its default and
            that no norm of the model reads, or a checkpoint's setting that no longer exists.
    """
    removed = {key: getattr(cfg, key, unused) for key, (unused, _) in _REMOVED.items()}  # fairseq deletes them from cfg
    model = _build_model(cfg, task, from_checkpoint)
    if isinstance(model, NormModel) and from_checkpoint:
        for key, value in removed.items():
            unused, advice = _REMOVED[key]
            if value not in (unused, None):
                raise UserError(f"{key}={value}: this version has no such setting{advice}")
    elif isinstance(model, NormModel):
        refuse_unread_settings(model.decoder.cfg)
        model.refuse_settings(task.cfg or task.args)
    return model


def build_criterion(cfg: Any, task: Any) -> nn.Module:
    """Build a criterion as fairseq does, and add the loss terms of norms such as ``rbn`` to its loss."""
    criterion = _build_criterion(cfg, task)
    criterion.register_forward_hook(_add_loss_terms)
    return criterion


def _add_loss_terms(_criterion: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any, Any]) -> Any:
    """Add each norm's ``loss_term`` to the loss of a training batch; the logged loss does not contain them."""
    loss, *others = output
    for module in inputs[0].modules():
        term = getattr(module, "loss_term", None)
        if term is not None:
            loss = loss + term if module.training else loss
            module.loss_term = None  # it holds the batch's graph
    return loss, *others
