"""Tracking with wandb: the offline file, the modes that a user can choose, and servers that do not answer."""

import json
import struct
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from normplugins.runs.cell import display_name
from normplugins.training import tracking
from normplugins.training.tracking import tracked
from normplugins.utils.errors import UserError
from tests.helpers.runs import TINY, succeed


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
    said = succeed(arguments, folder, **nobody)
    return folder, said


@pytest.mark.slow
def test_the_offline_file_contains_curves_and_scores(tracked_run):
    folder, said = tracked_run
    (path,) = (folder / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    record = json.loads((folder / "run" / "record.json").read_text())
    curves, summary, config, run = read_back(path)
    assert (run.project, run.run_group, run.display_name) == ("normplugins", "demo", display_name(record["variant"], 3))
    assert run.display_name.startswith("pn-")
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


OPTIONS = {"project": "normplugins", "id": "0123456789abcdef", "name": "ln-s1"}
CURVES = {"train": [{"update": 1, "epoch": 1, "loss": 4.0}]}
KEY = "f" * 40


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user without a login and without settings, whose working folder is empty."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": tmp_path, "NETRC": tmp_path / "netrc", "WANDB_CONFIG_DIR": tmp_path / "own"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def track(folder):
    """Track a run that logs one point, and return the names of the folders of wandb runs."""
    with tracked({**OPTIONS, "dir": str(folder)}, CURVES) as tracker:
        tracker.log("train", {"loss": 3.0}, 2)
    return [path.name for path in folder.glob("wandb/offline-run-*")]


class Server:
    """A server at WANDB_BASE_URL that gives one answer: a status, or None after a minute."""

    def __init__(self, answer):
        stopped = self.stopped = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if answer is None:
                    stopped.wait(60)
                self.send_response(answer or 200)
                self.end_headers()
                self.wfile.write(b"<html>")

            do_GET = do_POST

            def log_message(self, *_arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("answer", [401, None])
def test_without_a_server_a_run_is_tracked_offline(user, tmp_path, capsys, answer):
    server = Server(answer)
    user.setenv("WANDB_API_KEY", KEY)
    user.setenv("WANDB_BASE_URL", server.url)
    user.setattr(tracking, "CONNECT_SECONDS", 2)
    (run,) = track(tmp_path)
    server.stop()
    said = capsys.readouterr().out
    assert said.startswith("wandb: ")
    assert said.endswith("; tracking offline\n")
    assert said.count("\n") == 1
    wandb.teardown()  # as at the end of the process: `finish` returns before wandb's service has written the file
    (path,) = (tmp_path / "wandb" / run).glob("*.wandb")
    assert read_back(path)[0]["train/loss"] == [(1, 4.0), (2, 3.0)]


def test_a_run_is_tracked_offline_if_nobody_is_logged_in(user, tmp_path, capsys):
    assert len(track(tmp_path)) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("chosen", "runs"),
    [
        ({"WANDB_MODE": "offline"}, 1),
        ({"WANDB_DISABLED": "true"}, 0),
        ("disabled", 0),
    ],
)
def test_the_mode_is_chosen_in_wandb(user, tmp_path, chosen, runs):
    """In environment variables, or in the file that ``wandb offline`` and ``wandb disabled`` write."""
    user.setenv("WANDB_API_KEY", KEY)
    user.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if isinstance(chosen, dict):
        for name, value in chosen.items():
            user.setenv(name, value)
    else:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text(f"[default]\nmode = {chosen}\n")
    assert len(track(tmp_path)) == runs


def test_a_mode_that_wandb_does_not_have_is_refused(user, tmp_path):
    user.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UserError, match=r"wandb's settings are invalid: .*onlin"):
        track(tmp_path)
