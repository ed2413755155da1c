"""Refuses overrides that delete a key, set a derived key, contradict another setting or have no effect."""

from collections.abc import Sequence

from omegaconf import DictConfig

from normplugins.models.norm_settings import all_norm_names
from normplugins.models.placement import PLACEMENTS
from normplugins.norms import has_final_warmup
from normplugins.utils.errors import UserError


def refuse_keys(overrides: Sequence[str]) -> None:
    """Raise UserError for an override that deletes a key, sets the name of the cell, or is one of Hydra's own."""
    for item in overrides:
        if item.startswith(("hydra.", "hydra/")):
            raise UserError(f"'{item}' is a setting of Hydra itself, which a run does not take: leave it out")
        if item.startswith(("~", "variant=")):
            raise UserError(f"'{item}': no key can be deleted, and variant follows from the other keys: leave it out")


def refuse_contradicting_placement(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UserError for an override of ``model.normalize_before`` that ``model.placement`` contradicts.

    The recipes always set this key, so it is refused only if an override sets it.
    """
    placement, before = config.model.get("placement"), config.model.get("normalize_before")
    contradicts = placement in PLACEMENTS and PLACEMENTS[placement].pre_norm != before
    if contradicts and _sets(overrides, "model.normalize_before"):
        shown = f"model.normalize_before={str(before).lower()}"
        raise UserError(f"{shown} contradicts model.placement={placement}: leave one of them out")


def refuse_unread_warmup(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UserError for an override of the warmup of the stack's final norm if it would have no effect.

    The recipes always set this key, so it is refused only if an override sets it.
    """
    key = "model.final_norm_warmup_updates"
    if not _sets(overrides, key):
        return
    if not config.model.normalize_before:
        raise UserError(
            f"{key} has no effect on a post-norm model, which has no norm at the end of its stack: "
            "leave it out, or set model.normalize_before=true"
        )
    names = all_norm_names(config.model)
    if not any(map(has_final_warmup, names)):
        raise UserError(f"{key} has no effect on {' and '.join(names)}: it is the warmup of PN")
    if config.model.norm_warmup_updates == 0:
        raise UserError(f"{key} has no effect while norm.warmup_updates is 0: set norm.warmup_updates to use it")


def _sets(overrides: Sequence[str], key: str) -> bool:
    return any(item.startswith(f"{key}=") for item in overrides)
