"""The display of long steps: plain lines in a file, live on a terminal, nothing in a command's own output."""

import os
import pty
import re
import subprocess
import sys

import pytest

from normplugins.utils.steps import progress, step

SCRIPT = """
import sys, time
from normplugins.utils.steps import progress, step
with step("averaging 5 checkpoints", {echo}) as tell:
    time.sleep(0.3)
    tell("the second part")
    print("a result of 12,345.67")
    time.sleep(0.3)
    for _ in progress(range(3), "a part of it", echo={echo}):
        time.sleep(0.2)
for _ in progress(range(1234), "translating 9,876 sentences", echo={echo}):
    time.sleep(0.0005)
"""


def test_plain_lines_give_the_counts(capsys):
    with step("averaging 5 checkpoints"):
        pass
    assert list(progress([1, 2, 3], "translating")) == [1, 2, 3]
    assert list(progress(iter([1, 2]), "measuring", "texts", total=2)) == [1, 2]
    assert list(progress(iter([]), "reading", echo=None)) == []
    lines = ["averaging 5 checkpoints", "translating: 3 batches", "measuring: 2 texts"]
    assert capsys.readouterr() == ("".join(f"{line}\n" for line in lines), "")


def test_a_long_step_tells_how_much_is_left(capsys, monkeypatch):
    clock = iter([0.0, 30.0, 90.0, 100.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert len(list(progress(range(3), "scoring"))) == 3
    assert "scoring: 2 of 3 batches, about 1 minutes left\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_terminal_shows_whole_numbers_and_the_output_has_only_results(tmp_path):
    for columns in (40, 60):
        master, slave = pty.openpty()
        environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
        with (tmp_path / "out").open("wb") as out:
            subprocess.run(
                [sys.executable, "-c", SCRIPT.format(echo=None)], stdout=out, stderr=slave, env=environment, check=True
            )
        os.close(slave)
        screen = os.read(master, 1 << 16).decode()
        os.close(master)
        assert (tmp_path / "out").read_text() == "a result of 12,345.67\n"
        screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
        assert "averaging 5 checkpoints" in screen
        assert "the second part" in screen
        assert re.search(r"the second part 0:00:0\d\s+\S+ a part of it: 1 of 3", screen), "below what contains it"
        assert re.search(r"of\s+1,234\s+batches,\s+0:00:0\d\s+left", screen)
        assert "0:00:0" in screen
        assert "…" not in screen
