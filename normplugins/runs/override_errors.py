"""Explains the errors that Hydra raises about overrides, in one line that lists the known names."""

import difflib
import re
from collections.abc import Callable, Sequence

from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from normplugins.runs.cell import FAIRSEQ_COMPONENTS, Choices, flatten
from normplugins.utils.paths import config_dir

_WRONG_TYPE = re.compile(r"Value '(.*?)' (?:of type '\w+' )?(?:could not be converted to|is not a valid) (\w+)")
_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "bool": "true or false"}
Compose = Callable[[str, Sequence[str]], tuple[DictConfig, Choices]]
"""Composes an experiment with overrides: returns the config, and the option of each config group."""


def explain(error: Exception, experiment: str, overrides: Sequence[str], compose: Compose) -> str:
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


def _unknown_key(key: str, experiment: str, overrides: Sequence[str], compose: Compose) -> str:
    if (config_dir() / key).is_dir():
        return f"the experiment {experiment} has no choice of {key}: leave {key}=NAME out"
    given = [item.lstrip("+~").partition("=")[0] for item in overrides]
    choices = [item for item in overrides if item.partition("=")[0] in FAIRSEQ_COMPONENTS]
    if choices and not any(each.rpartition(".")[2] == key.rpartition(".")[2] for each in given):
        return f"{' '.join(choices)} does not fit the experiment {experiment}, which sets its key '{key}'"
    config, _ = compose(experiment, [item for item in overrides if (config_dir() / item.partition("=")[0]).is_dir()])
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
