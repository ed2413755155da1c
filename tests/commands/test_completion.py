"""The completion script, in bash: commands, options, experiments, norms and values after "="."""

import subprocess

import pytest

from normplugins.norms import known_norms
from normplugins.runs.experiments import experiments

ASK = """
source {script}
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=()
COMP_WORDBREAKS={breaks!r}
_normplugins
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def completed(accepted, tmp_path):
    def ask(line, breaks=" =", shell="bash"):
        script = tmp_path / "completion.sh"
        script.write_text(accepted("completion", shell))
        text = ASK.format(script=script, line=line, breaks=breaks)
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_bash_completes_what_the_parser_and_the_registries_have(completed):
    assert {"run", "evaluate", "report", "norms", "completion"} <= set(completed("normplugins "))
    assert completed("normplugins ru") == ["run"]
    assert completed("normplugins run --c") == ["--cfg"]
    assert {*experiments(), "norm=", "dry_run="} <= set(completed("normplugins run "))
    assert completed("normplugins run iwslt14 norm=") == list(known_norms())
    assert completed("normplugins run iwslt14 norm=pn_") == ["pn_alg2"]
    assert completed("normplugins run iwslt14 norm.group_s") == ["norm.group_scaling="]
    assert completed("normplugins run iwslt14 seed=") == []
    assert completed("normplugins run iwslt14 hardware.name") == []  # it follows from hardware=
    assert completed("normplugins completion ") == ["--help", "bash", "zsh"]
    assert completed("normplugins fold runs/") == []  # then the shell completes file names


def test_a_shell_that_does_not_split_words_at_an_equals_sign_gets_the_whole_word(completed):
    assert completed("normplugins run iwslt14 norm=pn_", breaks=" ") == ["norm=pn_alg2"]


def test_zsh_reads_the_same_function(accepted):
    bash = accepted("completion", "bash")
    zsh = accepted("completion", "zsh")
    assert "bashcompinit" in zsh
    assert zsh.partition("_normplugins()")[2] == bash.partition("_normplugins()")[2]
