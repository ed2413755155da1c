"""Overrides of a config: quotes text, refuses keys that cannot be set or have no effect, explains Hydra's errors."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from normplugins.corpora import CORPORA
from normplugins.models.check import MODELS
from normplugins.models.norm_settings import all_norm_names
from normplugins.models.placement import PLACEMENTS
from normplugins.norms import has_final_warmup
from normplugins.runs.cell import FAIRSEQ_COMPONENTS, Composer, flatten
from normplugins.runs.settings import SETTINGS_BY_TASK, declared
from normplugins.utils.errors import UserError
from normplugins.utils.paths import config_dir

_WRONG_TYPE = re.compile(r"Value '(.*?)' (?:of type '\w+' )?(?:could not be converted to|is not a valid) (\w+)")
_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "bool": "true or false"}


def hydra_overrides(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Return Hydra overrides with the values of text settings quoted, and without a leading ``+``.

    Hydra's grammar might read a text as a number or refuse it, as in ``experiment=2026`` and ``data_dir=/a=b (2)``.
    Values that are quoted already, ``null`` and values with an interpolation ``${...}`` do not change. All known keys
    exist, so none has to be added with ``+``. In a ``sweep``, as with ``run -m``, commas separate the values of runs.
    """
    return [_quote(override.lstrip("+"), sweep) for override in overrides]


def _quote(override: str, sweep: bool) -> str:
    key, equals, value = override.partition("=")
    if not equals or key not in _text_settings():
        return override
    interpolated = re.search(r"\$\\?\{", value)  # Hydra's sweeper escapes the brace
    several = sweep and "," in re.sub(r"\[[^]]*\]|\{[^}]*\}", "", value)  # a comma in brackets does not separate runs
    if value in ("", "null") or value[0] in "'\"" or interpolated or several:
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"{key}='{escaped}'"


@cache
def _text_settings() -> frozenset[str]:
    """Return the keys of all settings of the project that may hold text."""
    types = [(key, each.type) for task in SETTINGS_BY_TASK.values() for key, each in declared(task)]
    types += [(f"model.{each.name}", each.type) for model in MODELS.values() for each in fields(model)]
    types += [(f"corpus.{key}", type_) for corpus in CORPORA.values() for key, type_ in get_type_hints(corpus).items()]
    return frozenset(key for key, type_ in types if type_ is str or str in get_args(type_))


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Return the parsed overrides of one run.

    Raises:
        UserError: an override has several values.
        HydraException: an override cannot be parsed.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for each in parsed:
        if each.is_sweep_override():
            raise UserError(f"'{each.input_line}' has several values, but this is one run: -m makes a run for each")
    return parsed


def refuse_keys(overrides: Sequence[str]) -> None:
    """Refuse an override that deletes a key, sets a name that follows from other keys, or is one of Hydra's own.

    Raises:
        UserError: the message says what to give instead.
    """
    for item in (override.lstrip("+") for override in overrides):
        if item.startswith(("hydra.", "hydra/")):
            raise UserError(f"'{item}' is a setting of Hydra itself, and a run does not accept it: leave it out")
        if item.startswith(("~", "variant=")):
            raise UserError(f"'{item}': no key can be deleted, and variant follows from the other keys: leave it out")
        named = re.fullmatch(r"(\w+)\._?name=(.*)", item)
        if named and ((config_dir() / named[1]).is_dir() or named[1] in FAIRSEQ_COMPONENTS):
            choice = f"{named[1]}={named[2]}"
            raise UserError(f"'{item}' would change the name alone: choose the whole section with {choice}")


def refuse_without_effect(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse ``model.normalize_before`` if it contradicts the placement, and a final warmup that no norm reads.

    The recipes always set ``model.normalize_before`` and ``model.final_norm_warmup_updates``, so they are refused only
    if an override sets them.

    Raises:
        UserError: the message names the key and the other setting.
    """
    model, given = config.model, {item.partition("=")[0] for item in overrides}
    placement, before = model.get("placement"), model.get("normalize_before")
    if "model.normalize_before" in given and placement in PLACEMENTS and PLACEMENTS[placement].pre_norm != before:
        shown = f"model.normalize_before={str(before).lower()}"
        raise UserError(f"{shown} contradicts model.placement={placement}: leave one of them out")
    key = "model.final_norm_warmup_updates"
    if key in given and not (
        before and model.norm_warmup_updates != 0 and any(map(has_final_warmup, all_norm_names(model)))
    ):
        raise UserError(
            f"{key} has no effect here: it is the warmup of the PN at the end of a pre-norm stack, and needs "
            "norm.warmup_updates above 0"
        )


def explain_error(error: Exception, experiment: str, overrides: Sequence[str], compose: Composer) -> str:
    """Turn an error of Hydra into one line that names what is wrong and lists the known names."""
    text = str(error)
    if message := wrong_type(error):
        return message
    if isinstance(error, OverrideParseException):
        given, equals, value = error.override.partition("=")
        if not equals:
            return f"'{given}' is not an override: KEY=VALUE is needed"
        return f"'{error.override}' cannot be read: quote a value with special characters, as in \"{given}='{value}'\""
    if group := re.search(r"Could not find '([^']+)'", text):
        folder, _, name = group[1].rpartition("/")
        known = {path.stem for path in (config_dir() / folder).glob("*.yaml")}
        known |= {key.removesuffix(".yaml") for key in ConfigStore.instance().repo.get(folder, {})}
        return f"unknown {folder} '{name}'. Known: {', '.join(sorted(key for key in known if key[0] != '_'))}"
    key = re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is not in struct|not in)", text)
    if key and isinstance(error, ConfigCompositionException):
        return _unknown_key(key.group(1) or key.group(2), experiment, overrides, compose)
    return " ".join(map(str.strip, text.splitlines()[:3]))


def _unknown_key(key: str, experiment: str, overrides: Sequence[str], compose: Composer) -> str:
    if (config_dir() / key).is_dir():
        return f"the experiment {experiment} has no config group {key}: leave {key}=NAME out"
    given = [item.partition("=")[0] for item in overrides]
    choices = [item for item in overrides if item.partition("=")[0] in FAIRSEQ_COMPONENTS]
    if choices and not any(each.rpartition(".")[2] == key.rpartition(".")[2] for each in given):
        return f"{' '.join(choices)} does not have the key '{key}', which the experiment {experiment} sets"
    config, _ = compose([item for item in overrides if (config_dir() / item.partition("=")[0]).is_dir()])
    parent, _, leaf = key.rpartition(".")
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent, _, leaf = parent.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    known = [str(name) for name in section]
    if key.startswith("hardware.slurm") and parent == "hardware":
        return f"'{key}' needs hardware=slurm"
    close = [f"{parent}.{name}" if parent else name for name in difflib.get_close_matches(leaf, known, n=3)]
    if not parent and (meant := _with_leaf(config, key.rpartition(".")[2])):
        return f"unknown key '{key}': did you mean {' or '.join(meant)}?"
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown key '{key}': {hint}Known {'in ' + parent if parent else 'at the top'}: {', '.join(sorted(known))}"


def _with_leaf(config: DictConfig, leaf: str) -> list[str]:
    """Return the keys of a config whose last part is ``leaf`` or, if there is none, the model's keys for one stack."""
    values = dict(flatten(config, resolve=False))
    exact = [key for key in values if key.rpartition(".")[2] == leaf]
    found = exact or [key for key in values if re.fullmatch(rf"model\.(encoder|decoder)_{re.escape(leaf)}", key)]
    return [key for key in found if values[key] not in [f"${{{other}}}" for other in found]]


def wrong_type(error: BaseException) -> str | None:
    """Return a message for a value of the wrong type, with ``KEY=VALUE`` as typed; None for other errors."""
    reason = str(error.__cause__ or error)
    override = re.search(r"Error merging override (\S+?)=", str(error))
    full_key = re.search(r"full_key: (\S+)", str(error))
    key = override[1] if override else full_key[1] if full_key else ""
    if "is not Optional" in reason or "Incompatible value 'None'" in reason:
        return f"{key}=null: a value is needed"
    found = _WRONG_TYPE.search(reason)
    if not found:
        return None
    needed = _TYPES.get(found[2], f"a value of type {found[2]}")
    return f"{key}={found[1]}: {needed} is needed" if key else f"'{found[1]}': {needed} is needed"
