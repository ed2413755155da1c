"""Offline tracking with wandb: the file contains curves, config, names and scores."""

import json
import struct
from collections import defaultdict

import pytest
from wandb.proto import wandb_internal_pb2

from tests.helpers.runs import TINY, command


def records(path):
    """Yield the records of a .wandb file: 7 bytes of header, then the log format of LevelDB in blocks of 32 KiB."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read_back(path):
    """Return curves, summary, config and run of an offline file."""
    curves, summary, config, run = defaultdict(list), {}, {}, None
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            point = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in point.items():
                curves[name].append((point["_step"], value))
        elif kind == "summary":
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return curves, summary, config, run


@pytest.fixture(scope="module")
def tracked_run(trained, tmp_path_factory):
    """Return folder and output of a tracked run without credentials: the home is empty, and stdin is closed."""
    folder = tmp_path_factory.mktemp("tracked")
    arguments = ["run", "demo", "norm=pn", "seed=3", "run_dir=run", *TINY, f"data_dir={trained.data_dir}"]
    nobody = {"HOME": str(folder), "WANDB_API_KEY": "", "WANDB_MODE": "", "NETRC": str(folder / "netrc")}
    status, said = command(arguments, folder, **nobody)
    assert status == 0, said
    return folder, said


@pytest.mark.slow
def test_the_offline_file_contains_curves_and_scores(tracked_run):
    folder, said = tracked_run
    (path,) = (folder / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    (result,) = (folder / "results").rglob("seed3.json")
    record = json.loads(result.read_text())
    curves, summary, config, run = read_back(path)
    assert (run.project, run.run_group, run.display_name) == ("normplugins", "demo", f"{record['variant']}-seed3")
    assert run.display_name.startswith("pn,")
    assert set(run.tags) == {"demo", "pn"}
    assert config["norm"]["name"] == "pn"
    assert config["model"]["encoder_embed_dim"] == 16
    assert config["seed"] == 3
    for split in ("train", "valid"):
        points = record["curves"][split]
        assert len(points) == {"train": 8, "valid": 3}[split]
        assert curves[f"{split}/loss"] == [(point["update"], point["loss"]) for point in points]
        assert curves[f"{split}/ppl"] == [(point["update"], point["ppl"]) for point in points]
    assert curves["train/lr"]
    assert summary["test/bleu"] == record["metrics"]["bleu"]["score"]
    assert summary["test/sacrebleu"] == record["metrics"]["sacrebleu"]["score"]
    assert "nrefs:1" in json.dumps(summary["signature"])
    assert "wandb.ai" not in said
    assert "(1)" not in said  # wandb's question has numbered answers


def test_without_tracking_there_are_no_wandb_files(trained):
    assert not list(trained.folder.rglob("*wandb*"))
    assert "wandb" not in trained.output
