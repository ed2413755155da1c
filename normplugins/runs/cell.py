"""Names the table cell of a config: the norm, and every value that differs from the experiment's own.

The name is derived from the composed config and not from the overrides as typed: ``optimization.lr=[5e-3]`` and
``optimization.lr=0.005`` give one name, and a value that the experiment has anyway is left out.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normplugins.models.placement import norm_names
from normplugins.norms import NormConfig, all_settings, known_norms, resolve_norm, settings_read
from normplugins.runs.settings import OF_TASK, declared
from normplugins.training.update_size import keeps_update_size, world_size

FAIRSEQ_COMPONENTS = ("task", "model", "criterion", "optimizer", "lr_scheduler")
"""Config groups whose options are components of fairseq, or components of this plugin that replace them."""
PLACES = ("data_dir", "results_dir", "run_dir", "task.data", "checkpoint.save_dir")
"""Paths on one machine, which a record does not hold."""
# Keys of fairseq that change no result: the device, how often training prints, and how batches are loaded.
_FAIRSEQ_CHANGES_NO_RESULT = ("common.cpu", "common.log_interval", "dataset.num_workers", "dataset.data_buffer_size")
_CORPUS_CHANGES_NO_RESULT = re.compile(r"corpus\.(url|expected_\w+)")
_COORDINATES = ("experiment", "variant", "seed", "norm.name", "distributed_training.distributed_world_size")
_FILES_OF_A_CUSTOM_CORPUS = re.compile(r"corpus\.((train|valid|test)(_source|_target)?|source|target)")
# An option of these groups only sets keys that can also be set one by one: the cell is named by their values.
_GROUPS_OF_VALUES = ("reading",)
_LONGEST_NAME = 120  # a file system allows 255 bytes, and wandb and the record add to the name

Choices = Mapping[str, Any]
Composer = Callable[[list[str]], tuple[DictConfig, Choices]]


def changes_result(key: str) -> bool:
    """Whether a setting can change the result of a run.

    Settings declared with ``changes_result=False`` cannot: paths, hardware, tracking, logging, kernels and the like.
    """
    return not (
        key in PLACES
        or key in _FAIRSEQ_CHANGES_NO_RESULT
        or key in _own_settings_without_effect(tuple(known_norms()))
        or key.startswith(("hardware.", "tracking."))  # also settings of older runs
        or _CORPUS_CHANGES_NO_RESULT.fullmatch(key)
    )


def same_setting(key: str, before: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    """Whether two flat configs agree on a key.

    A null in ``model.norm_<setting>`` stands for the norm's own default, which older configs spell out.
    """
    value = today.get(key)
    if value is None and key.startswith("model.norm_"):
        value = today.get(f"norm.{key.removeprefix('model.norm_')}")
        return before.get(key) in (None, value)
    return bool(before.get(key) == value)


@cache
def _own_settings_without_effect(_norms: tuple[str, ...]) -> set[str]:
    norms = [name for name, one in all_settings().items() if not one.changes_result]
    return {
        *(key for task in OF_TASK.values() for key, each in declared(task) if not each.metadata["changes_result"]),
        *(f"{prefix}{name}" for prefix in ("norm.", "model.norm_") for name in norms),
    }


def cell_name(config: DictConfig, choices: Choices, compose: Composer) -> str:
    """The folder name of a run's cell, such as ``pn,norm.group_scaling=false,optimization.lr=0.005``.

    Several processes make another cell if each of them adds its batch to an update. A name that is too long for a file
    system is cut and gets a digest of the whole name.

    Args:
        config: the composed config with interpolations not yet resolved.
        choices: the chosen option of each config group.
        compose: composes the same experiment with other overrides; returns a config and its choices.
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
    """Yield every leaf of the config as (dotted key, value); a list is a leaf."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else str(key))
        else:
            yield path, node

    yield from walk(OmegaConf.to_container(config, resolve=resolve, enum_to_str=True), "")


def _chosen_groups(choices: Choices, compose: Composer, own_norm: str) -> list[str]:
    """Return ``group=option`` for each group with another option than the experiment's, unless another implies it."""
    chosen: list[str] = []
    for of_fairseq in (False, True):  # the project's own groups first: an architecture selects fairseq's model
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
    """Yield each key and value that differ from what the experiment's own file would give in this config."""
    expressions = dict(flatten(own, resolve=False))
    for key, expression in flatten(config, resolve=False):
        of_files = config.corpus.name == "custom" and _FILES_OF_A_CUSTOM_CORPUS.fullmatch(key)
        if key in _COORDINATES or not changes_result(key) or key.partition(".")[0] in _GROUPS_OF_VALUES or of_files:
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
    """Return the resolved value of ``key``, or the value that ``expression`` would have in its place."""
    if expression:
        config = config.copy()
        OmegaConf.update(config, key, expression[0], merge=False)
    try:
        found = OmegaConf.select(config, key)
    except OmegaConfBaseException:  # the expression refers to a key that this config lacks
        return None
    if found is None and key.startswith("norm."):
        return _norm_default(config, key.removeprefix("norm."))
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def _norm_default(config: DictConfig, field: str) -> Any:
    """Return the default of a norm setting that is null, or None if the norms that read it have different ones."""
    section = OmegaConf.to_container(config.norm, resolve=True)
    assert isinstance(section, dict)
    defaults = set()
    for key, name in norm_names(config.model).items():
        side = f"{key.partition('_')[0]}_attention_heads"
        heads = config.model.get(side, config.model.get("attention_heads", 1))
        try:
            norm = NormConfig(**{str(key): value for key, value in {**section, "name": name}.items()})
            if field in settings_read(norm):
                defaults.add(getattr(resolve_norm(norm, heads), field))
        except (TypeError, ValueError):  # later checks refuse an unknown key or a value out of range
            return None
    return defaults.pop() if len(defaults) == 1 else None


def _written(key: str, value: Any) -> str:
    """Return a value as it is written in a name."""
    if isinstance(value, list):
        return "_".join(_written(key, each) for each in value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if key == "corpus.codes" and Path(str(value)).is_file():  # by content, because its path may differ between machines
        return hashlib.sha256(Path(str(value)).read_bytes()).hexdigest()[:8]
    return str(value)
