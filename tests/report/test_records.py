"""Records that cannot be read end in a line that names the file."""

import json
import re
from pathlib import Path

import pytest

from normplugins.report.page import report
from normplugins.report.records import read_results
from normplugins.utils.errors import UserError
from tests.helpers.records import put, put_diverged, record, scored
from tests.helpers.runs import change_json


def edited(tmp_path: Path, *keys: str, **changes: object) -> Path:
    """A record with one field (a path of keys) changed, or removed when nothing is given."""
    content = scored(record(), {})
    parent = content
    for key in keys[:-1]:
        parent = parent[key]
    del parent[keys[-1]]
    if "to" in changes:
        parent[keys[-1]] = changes["to"]
    path = put(tmp_path, record())
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\udcff", "[1, 2]", "null"])
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, record())
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=re.escape(str(path))):
        report(tmp_path)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    "keys",
    [
        ("experiment",),
        ("metrics", "bleu", "score"),
        ("training", "updates"),
        ("curves", "valid"),
        ("scored_by",),
    ],
)
def test_a_missing_field_is_named_with_its_file(tmp_path: Path, keys: tuple[str, ...]) -> None:
    path = edited(tmp_path, *keys)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{keys[-1]}"):
        report(tmp_path)


@pytest.mark.parametrize("version", [3, "1", None])
def test_an_unknown_format_is_refused(tmp_path: Path, version: object) -> None:
    path = edited(tmp_path, "format", to=version)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*format {re.escape(repr(version))}"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("metrics", "bleu", "score"), "35.9"),
        (("metrics", "bleu", "score"), float("nan")),
        (("training",), None),
        (("training", "updates"), "many"),
        (("curves", "train"), [{"update": 50, "loss": None}]),
        (("corpus", "counts"), [1]),
        (("norm",), "bn"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(tmp_path: Path, keys: tuple[str, ...], value: object) -> None:
    path = edited(tmp_path, *keys, to=value)
    with pytest.raises(UserError, match=re.escape(str(path))):
        report(tmp_path)


def test_a_copied_record_does_not_count_twice(tmp_path: Path) -> None:
    path = put(tmp_path, record(seed=1))
    copy = path.with_name("seed2.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=re.escape(str(copy))):
        report(tmp_path)


@pytest.mark.parametrize(("entries", "said"), [({"seed": 7}, "holds the record of"), ({"seed": None}, "does not say")])
def test_the_file_of_a_diverged_run_is_checked_like_a_record(tmp_path: Path, entries: object, said: str) -> None:
    put_diverged(tmp_path, "multi30k", "ln", 3)
    change_json(tmp_path / "runs/multi30k/ln/seed3.diverged.json", **entries)
    with pytest.raises(UserError, match=rf"seed3\.diverged\.json {said}"):
        read_results(tmp_path)


def test_unfinished_files_are_not_read(tmp_path: Path) -> None:
    path = put(tmp_path, record())
    path.with_name("seed2.json.tmp").write_text("{")
    assert list(read_results(tmp_path)["seed"].unique()) == [1]


def test_seeds_stand_in_numerical_order(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        put(tmp_path, record(seed=seed))
    assert list(read_results(tmp_path)["seed"].unique()) == [1, 2, 10]


def test_a_run_that_was_resumed_on_another_processor_names_both(tmp_path: Path) -> None:
    content = record()
    put(tmp_path, content | {"later": [{"hardware": content["hardware"] | {"cpu": "2 x Other"}}]})
    assert list(read_results(tmp_path)["hardware"].unique()) == ["CPU (Some); CPU (Other)"]
