"""What a run's folder says about the calls that worked on it."""

import json
import shutil

from normplugins.corpora import corpus_config, prepare
from normplugins.runs import provenance
from normplugins.runs.compose import compose_config
from normplugins.runs.folder import PROVENANCE
from tests.helpers.runs import TINY, change_json


def test_code_of_later_calls_is_recorded_beside_the_first(trained, tmp_path):
    shutil.copy(trained.directory / PROVENANCE, tmp_path)
    path = tmp_path / PROVENANCE
    notes = json.loads(path.read_text(encoding="utf-8"))
    (first,) = notes["calls"]
    change_json(path, calls=[first, {**first, "git_commit": "another"}])
    found = provenance.call_history(tmp_path)
    (load,) = found["hardware"].pop("load")
    assert [len(load[moment]) for moment in ("start", "end")] == [3, 3]
    assert found == {**first, "later": [{**first, "git_commit": "another"}]}


def test_a_call_without_a_checkpoint_is_not_recorded(trained, tmp_path):
    """The next call starts from the beginning, perhaps on another machine."""
    config = compose_config("demo", ["norm=pn", *TINY])
    corpus = prepare(corpus_config(config.corpus), trained.data_dir)
    path = tmp_path / PROVENANCE
    for checkpoint, earlier in ((False, 0), (True, 1)):
        provenance.record_call_start(tmp_path, config, corpus)
        notes = json.loads(path.read_text(encoding="utf-8"))
        change_json(path, calls=[{**notes["calls"][0], "git_commit": "another"}])
        if checkpoint:
            (tmp_path / "checkpoint_last.pt").touch()
        provenance.record_call_start(tmp_path, config, corpus)
        assert len(provenance.call_history(tmp_path).get("later", [])) == earlier
