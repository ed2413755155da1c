"""Reads the file of a campaign's plan: blocks of cells, each block with its seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normplugins.utils.errors import UserError


@dataclass
class Block:
    """Cells of one experiment that run with the same seeds; a cell is a string of overrides."""

    experiment: str
    cells: list[str]
    seeds: list[int]


@dataclass
class PlanFile:
    """The content of a plan's file: its blocks, the overrides of all cells, and the question that its runs decide."""

    blocks: list[Block]
    overrides: list[str] = field(default_factory=list)
    decides: str = ""


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan without composing its runs. Raises UserError if it cannot be read, or has an unknown key."""
    try:
        content = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PlanFile), OmegaConf.load(path)))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        needed = "a plan needs blocks, each with experiment, cells and seeds"
        raise UserError(f"{path} cannot be read ({needed}): {' '.join(str(error).split())}") from error
    assert isinstance(content, PlanFile)
    return content
