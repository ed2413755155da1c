"""``normplugins completion bash|zsh``: print a script that completes command lines in bash or zsh."""

import argparse
import shlex
from collections.abc import Mapping, Sequence

from normplugins.runs.experiments import experiments
from normplugins.utils.paths import config_dir

ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
# The shell splits COMP_WORDS at "=", so the words are taken from the line itself. Bash replaces only what follows "=".
SCRIPT = """\
# Completion of normplugins. To activate it: eval "$(normplugins completion {shell})"
{activate}_normplugins() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" choices="" before="" choice command=""
    local word="${{line##* }}" rest="${{line#* }}"
    local key="${{word%%=*}}"
    [[ "$rest" == *" "* ]] && command="${{rest%% *}}"
    if [[ "$word" == *=* ]]; then
        case "$key" in
{values}
        esac
        word="${{word#*=}}"
        [[ "$COMP_WORDBREAKS" == *=* ]] || before="$key="
    else
        case "$command" in
            "") choices={commands} ;;
{options}
        esac
    fi
    COMPREPLY=()
    for choice in $(printf '%s\\n' "$choices" | tr ' ' '\\n'); do
        [[ "$choice" == "$word"* ]] && COMPREPLY+=("$before$choice")
    done
    [[ "${{COMPREPLY[*]}}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}}
complete -o default -F _normplugins normplugins
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")


def execute(options: argparse.Namespace) -> None:
    """Print the script, which is made from the parser, the experiments, the norms and the settings."""
    from normplugins.norms import all_settings, known_norms
    from normplugins.runs.settings import RunSettings, declared

    groups = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in config_dir().iterdir()}
    chosen = ("corpus", "hardware", "tracking", "reading", "budget", "architecture", "recipe")
    values = {name: groups[name] for name in chosen}
    values |= {"norm": list(known_norms())}
    # the names of the cell and of sections follow from other keys, and are refused
    settings = {
        key: each.type for key, each in declared(RunSettings) if key.rpartition(".")[2] not in ("variant", "name")
    }
    values |= {key: ["true", "false"] for key, type_ in settings.items() if type_ is bool}
    keys = [f"{key}=" for key in (*values, *settings, *(f"norm.{name}" for name in all_settings()))]
    (commands,) = (each.choices for each in options.parser._actions if isinstance(each, argparse._SubParsersAction))
    words = {name: _options(parser) for name, parser in commands.items()}
    for name in ("run", "prepare"):
        words[name] += [*experiments(), *dict.fromkeys(keys)]
    activate = ZSH if options.shell == "zsh" else ""
    cases = {"values": _cases(values), "options": _cases(words), "commands": shlex.quote(" ".join(words))}
    print(SCRIPT.format(shell=options.shell, activate=activate, **cases), end="")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of a command, and the names that its first argument is chosen from."""
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    chosen = [str(name) for action in parser._actions if not action.option_strings for name in action.choices or ()]
    return [*options, *chosen]


def _cases(choices: Mapping[str, Sequence[str]]) -> str:
    """Return the branches of a shell's ``case`` that set ``choices`` by name."""
    return "\n".join(f"            {name}) choices={shlex.quote(' '.join(each))} ;;" for name, each in choices.items())
