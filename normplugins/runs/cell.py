"""Names the table cell of a config by its norm and by every value that differs from the experiment's own.

The name is derived from the composed config, not from the overrides as typed: ``optimization.lr=[5e-3]`` and
``optimization.lr=0.005`` give the same name, and overrides that repeat the experiment's own value are left out.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normplugins.models.norm_settings import all_norm_names, norm_names
from normplugins.norms import NormConfig, all_settings, has_statistics, known_norms
from normplugins.runs.settings import SETTINGS_BY_TASK, declared
from normplugins.training.distributed import world_size

FAIRSEQ_COMPONENTS = ("task", "model", "criterion", "optimizer", "lr_scheduler")
"""Config groups whose options are components of fairseq, or components of this plugin that replace them."""
PATH_KEYS = ("data_dir", "results_dir", "run_dir", "task.data", "checkpoint.save_dir")
"""Paths on one machine, which records leave out. ``results_dir`` occurs in configs of version 0.2.0."""
# Settings that cannot change a result, in addition to those declared with changes_result=False: the device, fairseq's
# logging interval and batch loading, and keys of corpora, hardware and tracking in the configs of older runs.
_CHANGES_NO_RESULT = re.compile(
    r"common\.(cpu|log_interval)|dataset\.(num_workers|data_buffer_size)|corpus\.(url|expected_\w+)"
    r"|hardware\..*|tracking\..*"
)
_COORDINATES = ("experiment", "variant", "seed", "norm.name", "distributed_training.distributed_world_size")
_FILES_OF_A_CUSTOM_CORPUS = re.compile(r"corpus\.((train|valid|test)(_source|_target)?|source|target)")
# An option of this group only sets keys that can also be set one by one, so a cell's name has the values of the keys.
_GROUP_OF_VALUES = "reading"
_LONGEST_NAME = 120  # a file system allows 255 bytes, and wandb and the record add to the name
_LONGEST_DISPLAY_NAME = 40  # characters without the seed

# Settings that were removed or have a new default, each with the old and the new value. Both values give the same
# result, so a run that began with the old value may resume with the new one. None: the setting is absent.
EQUIVALENT_VALUES = {
    "precision": (None, "float32"),
    "corpus.length_in": ("words", None),
    "corpus.seed": (1, None),
    "corpus.verify": (True, None),
    "model.ffn_init": ("xavier", None),
    "model.adaptive_softmax_factor": (1.0, None),
}

Choices = Mapping[str, Any]
"""The chosen option of each config group."""
Composer = Callable[[list[str]], tuple[DictConfig, Choices]]
"""Composes the experiment with other overrides."""


def changes_result(key: str) -> bool:
    """Whether a setting can change the result of a run. Paths, hardware, logging, kernels and the like cannot."""
    own = _own_settings_without_effect(tuple(known_norms()))
    return not (key in PATH_KEYS or key in own or _CHANGES_NO_RESULT.fullmatch(key))


@cache
def _own_settings_without_effect(_norms: tuple[str, ...]) -> set[str]:
    of_runs = [each for task in SETTINGS_BY_TASK.values() for each in declared(task)]
    of_norms = [name for name, one in all_settings().items() if not one.changes_result]
    own = {key for key, each in of_runs if not each.metadata["changes_result"]}
    return own | {f"{prefix}{name}" for prefix in ("norm.", "model.norm_") for name in of_norms}


def cell_name(config: DictConfig, choices: Choices, compose: Composer) -> str:
    """Return the folder name of a run's cell, such as ``pn,norm.group_scaling=false,optimization.lr=0.005``.

    The number of processes is part of the name if updates depend on it, because each process adds its own batches to an
    update or keeps running statistics of its own batches. A name that is too long for a file system is cut and ends
    with a digest of the full name. The interpolations of ``config`` are not resolved yet, and ``compose`` composes the
    same experiment with other overrides.
    """
    own_norm = f"norm={config.norm.name}"
    groups = _chosen_groups(choices, compose, own_norm)
    own, _ = compose([own_norm, *groups])
    items = [*groups, *(f"{key}={_written(key, value)}" for key, value in _differing(config, own))]
    batches = OmegaConf.select(config, "train.batches_per_update")
    if world_size(config) > 1 and not _same_in_any_number_of_processes(batches, config.norm.sync, config.model):
        items.append(f"processes={world_size(config)}")
    return join_cell_name(config.norm.name, items)


def join_cell_name(norm: str, items: Iterable[str]) -> str:
    """Return the name of a cell from its norm and its settings (``key=value``)."""
    name = ",".join([norm, *sorted(re.sub(r"[^\w.=+-]+", "_", item) for item in items)])
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


def is_shortened(name: str) -> bool:
    """Whether :func:`join_cell_name` has cut this name, so that it ends with a digest of the full one."""
    return len(name.encode()) > _LONGEST_NAME - 4 and bool(re.search(r"-[0-9a-f]{8}$", name))


def display_name(variant: str, seed: int) -> str:
    """Return a short name of a run within its experiment, which shows what differs from the experiment.

    The name has the parts of the cell's name in the same order. A switch becomes the initials of its key, with ``no``
    before them if it is off. The choice of a config group becomes its option, with ``-recipe`` after a recipe. Any
    other setting becomes the initials of its key, followed by its value. A key of one word is not shortened.
    ``pn,norm.group_scaling=false,optimization.lr=0.005`` with seed 1 is ``pn-nogs-lr0.005-s1``. A name that is too long
    is cut and ends with a digest of the cell's name.
    """
    norm, *items = variant.split(",")
    name = "-".join([norm, *map(_short, items)])
    if len(name) > _LONGEST_DISPLAY_NAME:
        digest = hashlib.sha256(variant.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST_DISPLAY_NAME - 9].rstrip('-')}-{digest}"
    return f"{name}-s{seed}"


def _short(item: str) -> str:
    key, equals, value = item.partition("=")
    words = key.rpartition(".")[2].split("_")
    name = words[0] if len(words) == 1 else "".join(word[:1] for word in words)
    if not equals:  # the rest of a cell's name that was cut
        return item
    if value in ("true", "false"):
        return name if value == "true" else f"no{name}"
    if "." not in key and re.fullmatch(r"[A-Za-z_]+", value):
        return f"{value}-recipe" if key == "recipe" else value  # recipes have the names of norms
    return f"{name}{value}"


def changed_settings(before: dict[str, Any], today: dict[str, Any]) -> list[str]:
    """Describe each setting that can change a result and differs between an old and a new flat config."""
    before, today = (
        settings | {key: new for key, (old, new) in EQUIVALENT_VALUES.items() if settings.get(key) == old}
        for settings in map(_with_norm_defaults, (before, today))
    )
    model = SimpleNamespace(**{key.removeprefix("model."): value for key, value in before.items()})
    if _same_in_any_number_of_processes(before.get("train.batches_per_update"), before.get("norm.sync"), model):
        shares = {"optimization.update_freq", *(key for key in today if key.endswith(".distributed_world_size"))}
        before = {key: today.get(key) if key in shares else value for key, value in before.items()}
    keys = filter(changes_result, sorted(before.keys() | today.keys()))
    changed = [key for key in keys if before.get(key) != today.get(key)]
    return [f"{key}: {before.get(key)} there, {today.get(key)} now" for key in changed]


def _same_in_any_number_of_processes(batches_per_update: int | None, sync: str | None, model: Any) -> bool:
    """Whether the updates of a model are the same for any number of processes."""
    shared_statistics = sync == "deferred" or not any(map(has_statistics, all_norm_names(model)))
    return batches_per_update is not None and shared_statistics


def _with_norm_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a flat config in which the norm's own default replaces each norm setting that is null or missing.

    The configs of older runs lack norm settings that were added later, and may state a default that is null today. A
    default that depends on the number of attention heads stays null.
    """
    name, filled = str(settings.get("norm.name")), dict(settings)
    for key, one in all_settings().items():
        if name not in one.per_head:
            for path in (f"norm.{key}", f"model.norm_{key}"):
                filled[path] = one.defaults.get(name, one.default) if settings.get(path) is None else settings[path]
    return filled


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
    """Return ``group=option`` for each group whose option differs from the experiment's, unless another implies it."""
    chosen: list[str] = []
    for of_fairseq in (False, True):  # the project's own groups first: an architecture selects fairseq's model
        _, own = compose([own_norm, *chosen])
        chosen += [
            f"{group}={option}"
            for group, option in choices.items()
            if option != own.get(group)
            and (group in FAIRSEQ_COMPONENTS) == of_fairseq
            and not group.startswith(("hydra/", "norm", "hardware", "tracking", _GROUP_OF_VALUES))
        ]
    return chosen


def _differing(config: DictConfig, own: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value if the experiment's own expression would give another value in this config."""
    expressions = dict(flatten(own, resolve=False))
    usual: DictConfig | None = None
    for key, expression in flatten(config, resolve=False):
        of_files = config.corpus.name in ("custom", "custom_lm") and _FILES_OF_A_CUSTOM_CORPUS.fullmatch(key)
        if key in _COORDINATES or not changes_result(key) or key.startswith(f"{_GROUP_OF_VALUES}.") or of_files:
            continue
        if f"${{{_GROUP_OF_VALUES}." in str(expression) and key in expressions:
            if _value(config, key) != _value(own, key):
                yield key, _value(config, key)
        elif key not in expressions:
            yield key, _value(config, key)
        elif expressions[key] != expression:
            usual = usual or config.copy()
            OmegaConf.update(usual, key, expressions[key], merge=False)
            if _value(config, key) != _value(usual, key):
                yield key, _value(config, key)
            OmegaConf.update(usual, key, expression, merge=False)


def _value(config: DictConfig, key: str) -> Any:
    """Return the resolved value of ``key``; a norm setting that is null has the norm's default."""
    try:
        found = OmegaConf.select(config, key)
    except OmegaConfBaseException:  # its expression refers to a key that this config lacks
        return None
    if found is None and key.startswith("norm."):
        return _norm_default(config, key.removeprefix("norm."))
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def _norm_default(config: DictConfig, field: str) -> Any:
    """Return the default of a norm setting that is null, or None if the norms that read it have different defaults."""
    section: Any = OmegaConf.to_container(config.norm, resolve=True)
    defaults = set()
    for key, name in ((key, name) for key, names in norm_names(config.model).items() for name in names):
        side = f"{key.partition('_')[0]}_attention_heads"
        heads = config.model.get(side, config.model.get("attention_heads", 1))
        try:
            norm = NormConfig(**{**section, "name": name})
            if field in norm.settings_read():
                defaults.add(getattr(norm.resolve(heads), field))
        except (TypeError, ValueError):  # later checks refuse an unknown key or a value out of range
            return None
    return defaults.pop() if len(defaults) == 1 else None


def _written(key: str, value: Any) -> str:
    """Return a value as it appears in the name of a cell."""
    if isinstance(value, list):
        return "_".join(_written(key, each) for each in value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if key == "corpus.codes" and Path(str(value)).is_file():  # by its content, because the path may differ
        return hashlib.sha256(Path(str(value)).read_bytes()).hexdigest()[:8]
    return str(value)
