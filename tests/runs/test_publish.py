"""``normplugins publish``: what is copied to ``results/``, and what is refused."""

import json

import pytest

from normplugins.utils.json_file import HASH, write_json
from tests.helpers.runs import change_json, files

COMMIT = "0123456789" * 4


def rewrite(run, **changes):
    """Write another record, sealed as a run seals its own."""
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    record.pop(HASH)
    write_json(run / "record.json", record | changes)


@pytest.fixture
def run(run):
    """A copy of a trained run, whose code was committed, in a folder with an empty folder of results."""
    (run.parent / "results").mkdir()
    rewrite(run, git_commit=COMMIT, later=[])
    return run


@pytest.fixture
def published(run, accepted):
    """The run after it was published."""
    said = accepted("publish", "run")
    (path,) = (run.parent / "results").rglob("seed1.json")
    assert said == f"run: published as {path.relative_to(run.parent)}\n"
    return path


def test_the_record_and_its_translations_are_copied(run, published):
    assert published.read_bytes() == (run / "record.json").read_bytes()
    record = json.loads(published.read_text(encoding="utf-8"))
    assert published.relative_to(run.parent).parts == ("results", "runs", "demo", record["variant"], "seed1.json")
    copied = {path.name: path.read_bytes() for path in published.parent.glob("*.gz")}
    assert copied == {path.name: path.read_bytes() for path in run.glob("*.gz")}
    assert copied.keys() == {kept["file"] for kept in record["translations"].values()}


def test_publishing_again_changes_nothing_and_restores_what_is_missing(run, published, accepted):
    before = files(run.parent)
    accepted("publish", "run")
    assert files(run.parent) == before
    (published.parent / "seed1.last.tsv.gz").unlink()
    accepted("publish", "run")
    assert files(run.parent).keys() == before.keys()


def test_another_record_is_replaced_only_with_force(run, published, refused, accepted):
    before = published.read_bytes()
    rewrite(run, finished_at="2027-01-01T00:00:00+00:00")
    assert "is another record of this cell and seed" in refused("publish", "run")
    assert published.read_bytes() == before
    assert "published anyway: results/runs" in accepted("publish", "run", "--force")
    assert published.read_bytes() == (run / "record.json").read_bytes() != before


@pytest.mark.parametrize("changes", [{"git_commit": f"{COMMIT}+changes"}, {"later": [{"git_commit": "1+changes"}]}])
def test_code_that_was_not_committed_is_published_only_with_force(changes, run, refused, accepted):
    rewrite(run, **changes)
    assert "comes from code that is not committed" in refused("publish", "run")
    assert not list((run.parent / "results").iterdir())
    accepted("publish", "run", "--force")


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_is_not_sound_is_never_published(force, run, refused):
    translation, record = run / "seed1.last.tsv.gz", run / "record.json"
    translation.write_bytes(translation.read_bytes()[:-1])
    assert "run/seed1.last.tsv.gz is not the file that run/record.json names" in refused("publish", "run", *force)
    translation.unlink()
    assert "run/seed1.last.tsv.gz is not the file" in refused("publish", "run", *force)
    record.write_text(record.read_text(encoding="utf-8").replace('"seed": 1', '"seed": 2', 1), encoding="utf-8")
    assert "has been changed since it was written" in refused("publish", "run", *force)
    change_json(record, format=1, seed=1)
    assert "has the format 1" in refused("publish", "run", *force)
    record.unlink()
    assert "the run in run is not finished" in refused("publish", "run", *force)
    assert "holds no run" in refused("publish", "results", *force)
    assert not list((run.parent / "results").iterdir())


def test_the_others_are_published_although_one_is_refused(run, normplugins):
    status, said, errors = normplugins("publish", "nothing", "run")
    assert (status, "run: published as results" in said) == (1, True)
    assert errors.splitlines()[1] == "normplugins: 1 of 2 runs were not published"


def test_a_missing_folder_of_results_is_named(run, refused):
    (run.parent / "results").rmdir()
    assert "there is no folder results: create it, or name another with --results DIR" in refused("publish", "run")
