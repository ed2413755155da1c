"""Progress display: a bar on a terminal, plain lines in a file."""

import os
import pty
import re
import select

import pytest

from tests.helpers.runs import PATIENCE, TINY, Command


def test_output_to_a_file_is_plain_lines(trained):
    assert "\x1b" not in trained.output
    assert "\r" not in trained.output
    lines = re.findall(
        r"^epoch +(\d+)  update +(\d+)/24  loss +\d+\.\d{3}  ppl +\d+\.\d\d +[\d,]+ words/s  left \d:\d\d:\d\d$",
        trained.output,
        re.MULTILINE,
    )
    assert [int(update) for _, update in lines] == list(range(3, 25, 3))
    assert re.search(r"^demo pn-\S*-s1 on CPU with 1 thread$", trained.output, re.MULTILINE)
    assert re.search(r"^epoch   1  validation loss \d+\.\d{3}  ppl \d+\.\d\d  best$", trained.output, re.MULTILINE)
    assert re.search(
        r"^trained 24 updates in 3 epochs, 0:\d\d:\d\d \([\d,]+ words/s\), stopped by max_update$",
        trained.output,
        re.MULTILINE,
    )
    assert re.search(r"^bleu: BLEU = ", trained.output, re.MULTILINE)


@pytest.mark.slow
def test_output_to_a_terminal_has_a_bar(trained, tmp_path):
    master, slave = pty.openpty()
    where = ["tracking=none", "run_dir=run", f"data_dir={trained.data_dir}"]
    arguments = ["run", "demo", *where, *TINY, "evaluate.translate=false"]
    environment = {"COLUMNS": "80", "LINES": "40", "TERM": "xterm-256color"}
    run = Command(arguments, tmp_path, os.ttyname(slave), env=environment)
    shown = b""
    while b"recorded in" not in shown and run.process.is_alive():
        shown += os.read(master, 1 << 16) if select.select([master], [], [], 0.1)[0] else b""
    run.process.join(PATIENCE)
    os.close(slave)
    os.close(master)
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    screen = re.sub(r"\r(?!\n)", "\n", screen)  # where a live display is replaced
    assert run.process.exitcode == 0, screen
    assert re.search(r"^demo ln-\S*-s1 on CPU with 1 thread\r?$", screen, re.MULTILINE)
    assert re.search(r"━ +\d+/24 loss \d+\.\d{3}  [\d,]+ words/s \d:\d\d:\d\d", screen)
    assert "update      3/24" not in screen
    assert re.search(r"epoch   1  validation loss", screen)
