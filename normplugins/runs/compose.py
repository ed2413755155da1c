"""Composes the Hydra config of a run."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache, lru_cache, partial
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import normplugins
from normplugins.corpora import CORPORA, corpus_config, register_corpus_nodes
from normplugins.evaluation.tasks import run_task
from normplugins.models.norm_settings import norm_config, unread_settings
from normplugins.norms import all_settings, known_norms
from normplugins.runs.cell import FAIRSEQ_COMPONENTS, Choices, cell_name, flatten
from normplugins.runs.experiments import experiments
from normplugins.runs.fairseq_keys import COMPONENTS, FAIRSEQ_SECTIONS, check_component, fairseq_defaults
from normplugins.runs.overrides import (
    explain_error,
    hydra_overrides,
    parse_overrides,
    refuse_keys,
    refuse_without_effect,
)
from normplugins.runs.settings import SETTINGS_BY_TASK, SlurmHardwareSettings
from normplugins.training.distributed import launched, share_batches
from normplugins.utils.download import own_file
from normplugins.utils.errors import UserError
from normplugins.utils.paths import config_dir

CONFIG_DIR = config_dir()
# These keys take a list with a number for each epoch; a single number stands for a list of one.
ONE_PER_EPOCH = re.compile(r"(optimization\.(?:lr|update_freq))=([^\[,]+)$")
# Warmup settings, which a recipe or a comparison may set for all norms. Norms without a warmup ignore them.
WARMUP = re.compile(r"(pn_warmup_updates|model\.final_norm_warmup_updates)=\d+$")
# Hydra copies the whole store, with all nodes of fairseq, whenever it composes a config, but only reads the copy.
ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]


@cache
def register_nodes(norms: tuple[str, ...], _corpora: tuple[str, ...]) -> None:
    """Register Hydra's config nodes, made from dataclasses: fairseq's, our own settings, all ``norms`` and all corpora.

    They let every key be overridden on the command line, with a check of its type.
    """
    normplugins.register()
    store = ConfigStore.instance()
    store.store(name="_fairseq", node=fairseq_defaults())
    register_corpus_nodes(store, {path.stem for path in (CONFIG_DIR / "corpus").glob("*.yaml")})
    for task, settings in SETTINGS_BY_TASK.items():
        sections = {each.name: each.type if is_dataclass(each.type) else each.default for each in fields(settings)}
        store.store(name=f"_{task}_settings", node=sections)
    store.store(name="_norm_options", node={"model": {f"norm_{name}": f"${{norm.{name}}}" for name in all_settings()}})
    store.store(name="_slurm", node={"hardware": SlurmHardwareSettings})
    for name in norms:
        store.store(group="norm", name=f"_{name}", node=norm_node(name))
        if not (CONFIG_DIR / "norm" / f"{name}.yaml").exists():
            store.store(group="norm", name=name, node=norm_node(name))
    OmegaConf.register_new_resolver("visible_gpus", lambda: max(1, torch.cuda.device_count()), replace=True)
    OmegaConf.register_new_resolver("own_file", lambda path: str(own_file(path)), replace=True)
    OmegaConf.register_new_resolver("an_eighth", lambda count: math.ceil(count / 8), replace=True)
    OmegaConf.register_new_resolver("times", lambda factor, count: count and factor * count, replace=True)


def norm_node(name: str) -> type:
    """Return the dataclass of a norm's config: its name, and the settings of all norms with their common defaults.

    A null stands for the norm's own default. A recipe sets ``statistics_per_update`` for all norms with running
    statistics at once.
    """
    own: list[Any] = [("name", str, field(default=name))]
    for key, one in all_settings().items():
        per_update = key == "per_update" and name in one.defaults
        default = "${oc.select:statistics_per_update,false}" if per_update else one.default
        own.append((key, one.type if default is not None else one.type | None, field(default=default)))
    return make_dataclass("NormNode", own)


def compose_config(experiment: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config of one run of an experiment, such as ``iwslt14``, with overrides such as ``norm=pn``.

    Raises:
        UserError: the experiment, a group's option or a key is unknown (the known ones are listed), or a value has
            the wrong type.
    """
    if experiment not in experiments():
        raise UserError(f"unknown experiment '{experiment}'. Known: {', '.join(experiments())}")
    register_nodes(tuple(known_norms()), tuple(CORPORA))
    refuse_keys(overrides)
    overrides = hydra_overrides(overrides)
    where = [item for item in overrides if item.startswith(("hardware=", "tracking="))]
    overrides = [*where, *(item for item in overrides if item not in where)]
    try:
        config, choices = _compose(experiment, overrides)
        # not refused: in `norm=ln,pn pn_warmup_updates=100`, only one of the norms has a warmup
        given = [item for item in overrides if not WARMUP.match(item)]
        if given != overrides and "norm_warmup_updates" in unread_settings(config.model):
            overrides = given
            config, choices = _compose(experiment, overrides)
        config = config.copy()
        refuse_without_effect(config, overrides)
        # The name does not depend on hardware and tracking. The same choice of both makes the experiment's own config a
        # cache hit.
        config.variant = cell_name(config, choices, lambda others: _compose(experiment, [*where, *others]))
        convert_types(config)
        share_batches(config, overrides)
        OmegaConf.resolve(config)
        fill_norm_defaults(config)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(explain_error(error, experiment, overrides, partial(_compose, experiment))) from error
    return config


def _compose(experiment: str, overrides: Sequence[str]) -> tuple[DictConfig, Choices]:
    """Return the config as Hydra composes it, which callers must not change, and the chosen option of each group."""
    given = [ONE_PER_EPOCH.sub(r"\1=[\2]", item) for item in overrides]
    if member := launched():
        given.append(f"distributed_training.distributed_world_size={member.size}")
    options: list[str] = []
    values: list[Override] = []
    for each in parse_overrides(given):
        group, option = each.key_or_group, each.value()
        if not (CONFIG_DIR / group).is_dir() and group not in ConfigStore.instance().repo:
            values.append(each)
            continue
        if not isinstance(option, str):
            raise UserError(f"{each.input_line}: choose one option, as in {group}=NAME")
        if group in COMPONENTS:
            check_component(group, option)
        options.append(str(each.input_line))
    config, choices = _compose_groups(experiment, tuple(options), tuple(known_norms()))
    if values:
        leaves = [key for key, _ in flatten(config, resolve=False)]
        for each in values:
            section = each.key_or_group
            if any(key.startswith(f"{section}.") for key in leaves):
                raise UserError(f"{each.input_line}: {section} is a section: set its keys one by one")
        config = config.copy()
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config, choices


@contextmanager
def hydra() -> Iterator[None]:
    """Initialize Hydra with this project's configs for the block, and restore its version base afterwards.

    Hydra's version base is global to the process. If it is 1.2 or newer, Hydra refuses the interface through which
    fairseq reads checkpoints of its older versions.
    """
    base = VersionBase.instance()
    before = base.version_base
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            yield
    finally:
        base.version_base = before


@lru_cache(maxsize=64)  # composing takes 0.2 s, and most configs of a process differ only in values
def _compose_groups(experiment: str, groups: tuple[str, ...], _norms: tuple[str, ...]) -> tuple[DictConfig, Choices]:
    with hydra():
        config = compose(experiment, overrides=list(groups), return_hydra_config=True)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, choices


def convert_types(config: DictConfig) -> None:
    """Convert the values of our own sections to their types.

    Raises:
        UserError: the corpus is of a different task.
        OmegaConfBaseException: a value has the wrong type; it names key and type.
    """
    task, corpus = run_task(config.task._name), corpus_config(config.corpus)
    if not isinstance(corpus, task.CORPUS):
        raise UserError(f"corpus={corpus.name} does not fit the experiment, whose task is {config.task._name}")
    config.corpus = vars(corpus)  # without the settings that only older configs have
    types: dict[str, Any] = {each.name: each.type for each in fields(SETTINGS_BY_TASK[config.task._name])}
    types["corpus"] = type(corpus)
    if "slurm" in config.hardware:
        types["hardware"] = SlurmHardwareSettings
    own = make_dataclass("OwnSections", [(name, type_, MISSING) for name, type_ in types.items()])
    # plain, so that added keys are refused
    given: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(types)))
    if given["train"].get("probe", True) is None:  # in the configs of older runs
        del given["train"]["probe"]
    typed: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(own), given))
    config.update(typed)


def fill_norm_defaults(config: DictConfig) -> None:
    """Replace each null in the resolved section ``norm`` by the norm's own default, for the record.

    A setting whose default is the number of attention heads stays null, and so do the model's settings ``norm_*``,
    because the model may have other norms with other defaults.
    """
    try:
        resolved = norm_config(config.model, config.norm.name).resolve()
    except (AttributeError, ValueError):  # the checks refuse the norm with a better message
        return
    for key, value in resolved.settings.items():
        if config.norm.get(key) is None and config.norm.name not in all_settings()[key].per_head:
            config.norm[key] = value


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every job of a multirun: ``norm=ln,pn seed=1,2`` gives four lists.

    Raises:
        UserError: an override cannot be parsed.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(hydra_overrides(overrides, sweep=True))
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise UserError(explain_error(error, "", overrides, partial(_compose, ""))) from error
    return [list(job) for job in jobs]


def fairseq_config(config: DictConfig) -> DictConfig:
    """Return the part of a run's config that the trainer reads: fairseq's own FairseqConfig, and ``precision``."""
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    keys = *FAIRSEQ_SECTIONS, *FAIRSEQ_COMPONENTS, "precision"
    chosen = {key: plain[key] for key in keys if key in plain}  # the configs of older runs have no precision
    return OmegaConf.create(chosen, flags={"allow_objects": True, "struct": True})
