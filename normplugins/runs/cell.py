"""Names the table cell that a config belongs to: the norm, and every value that differs from the experiment's own.

The name comes from the composed config and not from what was typed: ``norm.group_scaling=False``,
``optimization.lr=[5e-3]`` and ``optimization.lr=0.005`` are written one way, and a value that the experiment has anyway
is left out.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normplugins.models.config import NORM_KEYS
from normplugins.models.placement import norm_names
from normplugins.norms import NormConfig, resolve_norm, settings_read
from normplugins.training.update_size import keeps_update_size, world_size

FAIRSEQ_COMPONENTS = ("task", "model", "criterion", "optimizer", "lr_scheduler")
"""Config groups whose options are components of fairseq, or of this plugin in their place."""
PLACES = ("data_dir", "results_dir", "run_dir", "task.data", "checkpoint.save_dir")
"""Where things lie on one machine: no part of what a record says."""
CHANGES_NO_RESULT = (
    *("hardware", "common.cpu", "tracking", "force", "dry_run", "train.checkpoint_minutes", "train.compile"),
    "train.probe",
    *("common.log_interval", "dataset.num_workers", "dataset.data_buffer_size", "norm.kernels", "model.norm_kernels"),
    *("evaluate.max_tokens", "evaluate.batch_size", "corpus.url", "corpus.expected_"),
)
"""Prefixes of the settings that say how a run is carried out and what is shown of it, and leave its number alone."""
_COORDINATES = ("experiment", "variant", "seed", "norm.name", "distributed_training.distributed_world_size")
_FILES_OF_A_CUSTOM_CORPUS = re.compile(r"corpus\.((train|valid|test)(_source|_target)?|source|target)")
# A choice in these groups only sets keys that can be set one by one as well: the cell is named by their values.
_GROUPS_OF_VALUES = ("reading",)
_LONGEST_NAME = 120  # a file system takes 255 bytes, and wandb and the record add to it

Choices = Mapping[str, Any]
Composer = Callable[[list[str]], tuple[DictConfig, Choices]]


def cell_name(config: DictConfig, choices: Choices, compose: Composer) -> str:
    """The folder name of a run's cell, such as ``pn,norm.group_scaling=false,optimization.lr=0.005``.

    Several processes make a cell of their own where each of them adds its batch to an update. A name that is too long
    for a file system is cut, and a digest of the whole name is put behind it.

    Args:
        config: the composed config, its interpolations not resolved.
        choices: the option that was chosen in each config group.
        compose: composes the same experiment with other overrides; it returns a config and its choices.
    """
    own_norm = f"norm={config.norm.name}"
    groups = _chosen_groups(choices, compose, own_norm)
    own, _ = compose([own_norm, *groups])
    items = [*groups, *(f"{key}={_written(key, value)}" for key, value in _differing(config, own))]
    if world_size(config) > 1 and not keeps_update_size(config):
        items.append(f"processes={world_size(config)}")
    name = ",".join([config.norm.name, *sorted(re.sub(r"[^\w.=+-]+", "_", item) for item in items)])
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


def flatten(config: DictConfig, resolve: bool = True) -> Iterator[tuple[str, Any]]:
    """Every leaf of the config as (dotted key, value); a list is a leaf."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else str(key))
        else:
            yield path, node

    yield from walk(OmegaConf.to_container(config, resolve=resolve, enum_to_str=True), "")


def _chosen_groups(choices: Choices, compose: Composer, own_norm: str) -> list[str]:
    """``group=option`` of each group with another option than the experiment's, unless one of the others brings it."""
    chosen: list[str] = []
    for of_fairseq in (False, True):  # the project's own groups first: an architecture chooses fairseq's model
        _, own = compose([own_norm, *chosen])
        chosen += [
            f"{group}={option}"
            for group, option in choices.items()
            if option != own.get(group)
            and (group in FAIRSEQ_COMPONENTS) == of_fairseq
            and not group.startswith(("hydra/", "norm", "hardware", "tracking", *_GROUPS_OF_VALUES))
        ]
    return chosen


def _differing(config: DictConfig, own: DictConfig) -> Iterator[tuple[str, Any]]:
    """Each key whose value is another than what the experiment's own file would give it in this config."""
    expressions = dict(flatten(own, resolve=False))
    for key, expression in flatten(config, resolve=False):
        of_files = config.corpus.name == "custom" and _FILES_OF_A_CUSTOM_CORPUS.fullmatch(key)
        if key in _COORDINATES or key.startswith((*CHANGES_NO_RESULT, *PLACES, *_GROUPS_OF_VALUES)) or of_files:
            continue
        by_choice = any(f"${{{group}." in str(expression) for group in _GROUPS_OF_VALUES)
        if expressions.get(key, ...) == expression and not by_choice:
            continue
        value = _value(config, key)
        if key not in expressions or value != (
            _value(own, key) if by_choice else _value(config, key, expressions[key])
        ):
            yield key, value


def _value(config: DictConfig, key: str, *expression: Any) -> Any:
    """The value of ``key``, resolved; with an expression, the value that this would have in its place."""
    if expression:
        config = config.copy()
        OmegaConf.update(config, key, expression[0], merge=False)
    try:
        found = OmegaConf.select(config, key)
    except OmegaConfBaseException:  # the expression refers to a key that is not in this config
        return None
    if found is None and key.startswith("norm."):
        return _norm_default(config, key.removeprefix("norm."))
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def _norm_default(config: DictConfig, field: str) -> Any:
    """The value that each norm of the model gives to a field that is null, if it reads it; None where they differ."""
    section = OmegaConf.to_container(config.norm, resolve=True)
    assert isinstance(section, dict)
    defaults = set()
    for key, name in norm_names(config.model, NORM_KEYS).items():
        side = f"{key.partition('_')[0]}_attention_heads"
        heads = config.model.get(side, config.model.get("attention_heads", 1))
        try:
            norm = NormConfig(**{str(key): value for key, value in {**section, "name": name}.items()})
            if field in settings_read(norm):
                defaults.add(getattr(resolve_norm(norm, heads), field))
        except (TypeError, ValueError):  # an unknown key or a value out of range: the checks after this refuse it
            return None
    return defaults.pop() if len(defaults) == 1 else None


def _written(key: str, value: Any) -> str:
    """A value as the name holds it, however it was typed."""
    if isinstance(value, list):
        return "_".join(_written(key, each) for each in value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if key == "corpus.codes" and Path(str(value)).is_file():  # by content: it lies elsewhere on another machine
        return hashlib.sha256(Path(str(value)).read_bytes()).hexdigest()[:8]
    return str(value)
