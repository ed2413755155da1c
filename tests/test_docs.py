"""The pages say what is true: links resolve, and every command that they show is one that the program accepts."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from normplugins.cli import parse
from normplugins.norms import known_norms
from normplugins.runs.compose import compose_config, expand_sweep
from normplugins.runs.experiments import experiments

ROOT = Path(__file__).parents[1]
PAGES = [path for name in ("*.md", "docs/**/*.md", "data/*.md", "results/*.md") for path in sorted(ROOT.glob(name))]
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")
CODE_BLOCK = re.compile(r"(?:^    .*\n(?:^    .*\n|^\n(?=    ))*)", re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(*pages: Path) -> list[str]:
    """Each line of the pages' code blocks once, without its comment and the folder of the environment."""
    found: dict[str, None] = {}
    for page in pages:
        for block in CODE_BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s{2,}# .*| # .*", "", line.strip())
                found[command.removeprefix(".venv/bin/")] = None
    return list(found)


COMMANDS = commands(*PAGES)
OURS = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("normplugins ") and "..." not in line]
MAKE = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("make ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if section:
            assert section in map(anchor, HEADING.findall(target.read_text(encoding="utf-8"))), link


@pytest.mark.parametrize("page", [*(ROOT / "results").glob("*.md")], ids=lambda page: page.name)
def test_generated_pages_hold_no_placeholder(page: Path) -> None:
    assert re.findall(r"\{\w+[^}]*\}?", page.read_text(encoding="utf-8")) == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_no_module_is_longer_than_the_contributors_are_told() -> None:
    limit = re.search(r"longer than (\d+) lines", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert limit
    lengths = {path.name: path.read_bytes().count(b"\n") for path in (ROOT / "normplugins").rglob("*.py")}
    assert [name for name, length in lengths.items() if length > int(limit[1])] == []


@pytest.mark.parametrize("arguments", OURS, ids=" ".join)
def test_the_command_line_accepts_each_command(arguments: list[str]) -> None:
    assert callable(parse(arguments).execute)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [words[1:] for words in OURS if words[0] == "run" and words[1:]], ids=" ".join)
def test_each_run_composes(arguments: list[str]) -> None:
    experiment, *overrides = [word for word in arguments if not word.startswith("-")]
    first, *_ = expand_sweep(overrides)
    compose_config(experiment, first)


def test_make_knows_each_target() -> None:
    for arguments in MAKE:
        # --dry-run makes nothing: recipes are printed only
        made = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        experiment, dash, norm = arguments[0].partition("-")
        assert not dash or experiment not in experiments() or norm in known_norms()
