"""``normplugins norms [NORM]``: list the norms, or describe the settings of one."""

import argparse
from typing import Any

from normplugins.utils.errors import UserError
from normplugins.utils.steps import loading
from normplugins.utils.terminal import definitions, say, terminal_width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("norm", nargs="?", metavar="NORM", help="a norm whose settings are described, such as pn")


def execute(options: argparse.Namespace) -> None:
    """Print the norms with their settings and defaults, from the registry."""
    with loading():
        from normplugins.norms import all_settings, known_norms
    norms, shared = known_norms(), all_settings()
    if options.norm is None:
        rows = {}
        for name, summary in norms.items():
            settings = [f"{key}={_default(one, name)}" for key, one in shared.items() if name in one.defaults]
            rows[name] = "\n".join([summary.replace("`", ""), *([" ".join(settings)] if settings else [])])
        print(definitions(rows, terminal_width()))
        say("\nheads: the number of attention heads. A run takes norm=NAME and norm.SETTING=VALUE;")
        say("`normplugins norms NAME` describes the settings of one.")
        return
    if options.norm not in norms:
        raise UserError(f"unknown norm '{options.norm}'. Known: {', '.join(norms)}")
    say(f"norm={options.norm}: {norms[options.norm]}\n")
    rows = {}
    for key, one in shared.items():
        if options.norm in one.defaults:
            doc = next(doc for doc, names in one.docs.items() if options.norm in names)
            rows[f"norm.{key}={_default(one, options.norm)}"] = doc
    print(definitions(rows, terminal_width()) if rows else "  It has no settings.")


def _default(one: Any, name: str) -> str:
    default = one.defaults[name]
    if name in one.per_head:
        return "heads"
    return "null" if default is None else str(default).lower()
