"""Composes the Hydra config of a run, and names the known alternatives when an override does not fit."""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.dataclass.configs import FairseqConfig
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from hydra.version import VersionBase
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import normplugins
from normplugins.corpora import corpus_config, register_corpus_nodes
from normplugins.evaluation.tasks import kind_of
from normplugins.norms import NormConfig, known_norms
from normplugins.runs.cell import FAIRSEQ_COMPONENTS, Choices, cell_name
from normplugins.runs.slurm import SlurmConfig
from normplugins.training.distributed import launched
from normplugins.training.update_size import share_batches
from normplugins.utils.errors import UserError
from normplugins.utils.paths import config_dir

CONFIG_DIR = config_dir()
# The parts of fairseq's config that its trainer reads; the components (model, task, ...) come as config groups.
FAIRSEQ_SECTIONS = ("common", "distributed_training", "dataset", "optimization", "checkpoint", "bmuf", "ema")
# A number given for a key that takes a list of them (one per epoch) stands for a list of one.
ONE_PER_EPOCH = re.compile(r"(optimization\.(?:lr|update_freq))=([^\[,]+)")


@dataclass
class TrainSection:
    """Types of the ``train`` section."""

    checkpoint_minutes: float = MISSING
    batches_per_update: int | None = None
    bucket_by_length: bool | None = None
    compile: bool = False
    probe: bool | None = None


@dataclass
class HardwareSection:
    """Types of the ``hardware`` section."""

    name: str = MISSING
    processes: int = MISSING
    threads: int | None = None
    timeout_seconds: float = MISSING


@dataclass
class SlurmHardwareSection(HardwareSection):
    """Types of the ``hardware`` section with ``hardware=slurm``."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)


def register_nodes() -> None:
    """Give Hydra fairseq's own config dataclasses and the norm's options of a model, under names the YAML refers to.

    With these, every key of fairseq's trainer can be overridden from the command line and is checked for its type. A
    norm of another package has no file in configs/norm/: its node says its name, and leaves it its own defaults.
    """
    normplugins.register()
    store = ConfigStore.instance()
    store.store(name="_fairseq", node=fairseq_defaults())
    store.store(name="_slurm", node={"hardware": {"slurm": SlurmConfig}})
    options = {f"norm_{field.name}": f"${{norm.{field.name}}}" for field in fields(NormConfig) if field.name != "name"}
    store.store(name="_norm_options", node={"model": options})
    register_corpus_nodes(store, {path.stem for path in (CONFIG_DIR / "corpus").glob("*.yaml")})
    for name in known_norms():
        if not (CONFIG_DIR / "norm" / f"{name}.yaml").exists():
            store.store(group="norm", name=name, node={"defaults": ["_fields", "_self_"], "name": name})
    OmegaConf.register_new_resolver("visible_gpus", torch.cuda.device_count, replace=True)
    OmegaConf.register_new_resolver("an_eighth", lambda count: math.ceil(count / 8), replace=True)


@contextmanager
def composing() -> Iterator[None]:
    """Let Hydra 1.3 compose from configs/, and forget its version afterwards.

    It would keep it for the whole process, in which fairseq could then read no checkpoint of its older versions: it
    does so through an interface that Hydra refuses from 1.2 on.
    """
    base = VersionBase.instance()
    before = base.version_base
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            yield
    finally:
        base.version_base = before


def fairseq_defaults() -> DictConfig:
    """The sections of fairseq's config that its trainer reads, each key with fairseq's default."""
    defaults = FairseqConfig()
    return OmegaConf.create({section: getattr(defaults, section) for section in FAIRSEQ_SECTIONS})


def experiments() -> list[str]:
    """The names that ``normplugins run`` knows: one primary file each in configs/."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if not path.stem.startswith("_"))


def compose_config(experiment: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of one run.

    Args:
        experiment: a primary config's name, such as ``iwslt14``.
        overrides: Hydra overrides, such as ``norm=pn`` or ``optimization.max_update=100``.

    Raises:
        UserError: the experiment, a group's option or a key is unknown (the known ones are listed), or a value has
            the wrong type.
    """
    if experiment not in experiments():
        raise UserError(f"unknown experiment '{experiment}'. Known: {', '.join(experiments())}")
    register_nodes()
    try:
        config, choices = _compose(experiment, overrides)
        if not isinstance(config.norm, DictConfig) or not isinstance(config.corpus, DictConfig):
            raise ValueError("norm and corpus are chosen by name: norm=pn, or changed by key: norm.eps=1e-6")
        config.variant = cell_name(config, choices, partial(_compose, experiment))
        check_types(config)
        share_batches(config, overrides)
        OmegaConf.resolve(config)
    except TypeError as error:  # Hydra's own, for a group given a list of numbers and the like
        raise UserError(f"an override has a value of the wrong kind ({error}): {' '.join(overrides)}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, experiment, overrides)) from error
    return config


def _compose(experiment: str, overrides: Sequence[str]) -> tuple[DictConfig, Choices]:
    """The config as Hydra composes it, and the option that it chose in each group."""
    given = [*(ONE_PER_EPOCH.sub(r"\1=[\2]", item) for item in overrides), *by_launcher()]
    with composing():
        config = compose(experiment, overrides=given, return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    with open_dict(config):
        del config["hydra"]
    return config, {str(group): option for group, option in choices.items()}


def by_launcher() -> list[str]:
    """The override that torchrun or srun brings: how many processes the run has, on all machines together."""
    member = launched()
    return [f"distributed_training.distributed_world_size={member.size}"] if member else []


def check_types(config: DictConfig) -> None:
    """Convert the values of our own sections to their types.

    Raises:
        UserError: the corpus is of another kind than the task.
        OmegaConfBaseException: a value has the wrong type; it names key and type.
    """
    kind, corpus = kind_of(config.task._name), corpus_config(config.corpus)
    if not isinstance(corpus, kind.CORPUS):
        raise UserError(f"corpus={corpus.name} does not fit the experiment, whose task is {config.task._name}")
    config.corpus = vars(corpus)  # without the settings that only older configs have
    hardware = SlurmHardwareSection if "slurm" in config.hardware else HardwareSection
    types: dict[str, type] = {"force": bool, "dry_run": bool, "train": TrainSection, "hardware": hardware}
    types |= {"corpus": type(corpus), **kind.SECTIONS}
    own = make_dataclass("OwnSections", [(name, type_, MISSING) for name, type_ in types.items()])
    typed = OmegaConf.merge(OmegaConf.structured(own), OmegaConf.masked_copy(config, list(types)))
    config.update(OmegaConf.to_container(typed))


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a multirun: ``norm=ln,pn seed=1,2`` gives four lists.

    Raises:
        UserError: an override cannot be parsed.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise UserError(_first_lines(error)) from error
    return [list(job) for job in jobs]


def fairseq_config(config: DictConfig) -> DictConfig:
    """The part of a run's config that fairseq's trainer takes, in the shape it expects (its own FairseqConfig)."""
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    chosen = {key: plain[key] for key in (*FAIRSEQ_SECTIONS, *FAIRSEQ_COMPONENTS)}
    result = OmegaConf.create(chosen, flags={"allow_objects": True})
    OmegaConf.set_struct(result, True)
    return result


def _first_lines(error: Exception, count: int = 2) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:count] if line.strip())


def _explain(error: Exception, experiment: str, overrides: Sequence[str]) -> str:
    """One line that names what is wrong and what is known, from Hydra's several."""
    text = str(error)
    if text.startswith("Error merging override") and error.__cause__:
        return f"{text}: {_first_lines(error.__cause__, 1)}"
    group = re.search(r"Could not find '([\w./-]+)'", text) or re.search(r"In '[^']+': Could not find '([^']+)'", text)
    if group:
        folder, _, name = group.group(1).rpartition("/")
        files = {path.stem for path in (CONFIG_DIR / folder).glob("*.yaml")}
        if not files or folder == "norm":  # of fairseq's components, and norms of other packages
            files |= {key.removesuffix(".yaml") for key in ConfigStore.instance().repo.get(folder, {})}
        return f"unknown {folder} '{name}'. Known: {', '.join(sorted(key for key in files if key[0] != '_'))}"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '([^']+)' (?:is not in struct|not in)", text
    )
    if key and isinstance(error, ConfigCompositionException):
        return _unknown_key(key.group(1), experiment, overrides)
    return _first_lines(error, 3)


def _unknown_key(key: str, experiment: str, overrides: Sequence[str]) -> str:
    choices = [item for item in overrides if (CONFIG_DIR / item.partition("=")[0]).is_dir()]  # such as norm=pn
    with composing():
        config = compose(experiment, overrides=choices, return_hydra_config=key.startswith("hydra."))
    parent, _, leaf = key.rpartition(".")
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent, _, leaf = parent.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    known = [str(name) for name in section]
    if key.startswith("hardware.slurm") and parent == "hardware":
        return f"'{key}' needs hardware=slurm"
    close = difflib.get_close_matches(leaf, known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown key '{key}': {hint}Known {'in ' + parent if parent else 'at the top'}: {', '.join(sorted(known))}"
