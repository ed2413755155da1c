"""Shows the composed config of a run: each key with its value, the file that sets it, and what it means."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from normplugins.corpora import CORPORA
from normplugins.norms import all_settings
from normplugins.runs.cell import FAIRSEQ_COMPONENTS, flatten
from normplugins.runs.compose import CONFIG_DIR, compose_config, hydra
from normplugins.runs.fairseq_keys import FAIRSEQ_SECTIONS
from normplugins.runs.overrides import hydra_overrides
from normplugins.runs.settings import SETTINGS_BY_TASK, declared
from normplugins.utils.terminal import say


def show_config(experiment: str, overrides: Sequence[str]) -> None:
    """Print ``key=value`` with source and documentation for each key; raises as :func:`compose_config` does."""
    config = compose_config(experiment, overrides)
    known, sources = dict(docs(config)), sources_of(experiment, overrides)
    for key, value in flatten(config):
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        doc = f": {' '.join(known[key].split())}" if known.get(key) else ""
        say(f"{key}={shown}  # {_source(key, sources)}{doc}")


def _source(key: str, sources: dict[str, str]) -> str:
    """Return the source of a key, or of the section that an override sets as a whole."""
    parts = key.split(".")
    parents = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((sources[parent] for parent in parents if parent in sources), "derived from other settings")


def sources_of(experiment: str, overrides: Sequence[str]) -> dict[str, str]:
    """Return where the value of each key is set: a file, ``default``, ``fairseq's default`` or ``command line``."""
    sources: dict[str, str] = {}
    overrides = hydra_overrides(overrides)
    with hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        parsed = loader.compute_defaults_list(experiment, list(overrides), RunMode.RUN)
        for default in parsed.defaults:
            if default.config_path.startswith("hydra/"):
                continue
            loaded = loader._load_single_config(default, loader.repository)
            section = default.config_path.partition("/")[0]
            name = "fairseq's default" if default.config_path == "_fairseq" else "default"
            if loaded.provider != "schema" and (CONFIG_DIR / f"{default.config_path}.yaml").is_file():
                name = f"configs/{default.config_path}.yaml"
            elif section in FAIRSEQ_COMPONENTS:
                name = f"default of {default.config_path.replace('/', '=')}"
            sources.update({key: name for key, _ in flatten(loaded.config, resolve=False)})
    for override in overrides:
        key = override.partition("=")[0]
        if not (CONFIG_DIR / key).is_dir():
            sources[key] = "command line"
    return sources


def docs(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield each documented key of a config with its documentation."""
    components = {"task": TASK_DATACLASS_REGISTRY, "model": MODEL_DATACLASS_REGISTRY}
    components |= {name: REGISTRIES[name]["dataclass_registry"] for name in FAIRSEQ_COMPONENTS if name in REGISTRIES}
    sections: dict[str, Any] = {each.name: each.type for each in fields(FairseqConfig) if each.name in FAIRSEQ_SECTIONS}
    sections |= {name: registry.get(config[name]._name) for name, registry in components.items()}
    sections["corpus"] = CORPORA.get(config.corpus.name)
    for section, settings in sections.items():
        declarations = fields(settings) if is_dataclass(settings) else ()
        yield from ((f"{section}.{each.name}", str(each.metadata.get("help") or "")) for each in declarations)
    for name, one in all_settings().items():
        yield f"norm.{name}", next((doc for doc, norms in one.docs.items() if config.norm.name in norms), one.help)
        yield f"model.norm_{name}", f"norm.{name} of the model"
    yield from ((key, each.metadata["help"]) for key, each in declared(SETTINGS_BY_TASK[config.task._name]))
