"""``normplugins norms``: list the norms with their settings."""

import argparse
from collections.abc import Mapping
from typing import Any

from normplugins.utils.steps import loading
from normplugins.utils.terminal import definitions, say, terminal_width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the Markdown table."""
    parser.add_argument("--markdown", action="store_true", help="print the table of all settings in docs/norms.md")


def execute(options: argparse.Namespace) -> None:
    """Print the norms with their settings and defaults, from the registry."""
    with loading():
        from normplugins.norms import all_settings, known_norms
    if options.markdown:
        print(settings_table(all_settings()))
        return
    rows = {}
    for name, summary in known_norms().items():
        settings = [f"{key}={_default(one, name)}" for key, one in all_settings().items() if name in one.defaults]
        rows[name] = "\n".join([summary.replace("`", ""), *([" ".join(settings)] if settings else [])])
    print(definitions(rows, terminal_width()))
    say("\nheads: the number of attention heads. A run takes norm=NAME and norm.SETTING=VALUE;")
    say("`normplugins run EXPERIMENT norm=NAME --cfg` explains the settings of a norm.")


def settings_table(settings: Mapping[str, Any]) -> str:
    """Return the settings of all norms as a Markdown table: name, default in each norm, documentation."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, one in settings.items():
        by_default: dict[str, list[str]] = {}
        for norm, default in one.defaults.items():
            by_default.setdefault(str(default).lower(), []).append(f"`{norm}`")
        defaults = "; ".join(f"{default}: {', '.join(norms)}" for default, norms in by_default.items())
        meaning = one.help if len(one.docs) > 1 else next(iter(one.docs))
        lines.append(f"| `{name}` | {defaults} | {meaning} |")
    return "\n".join(lines)


def _default(one: Any, name: str) -> str:
    default = one.defaults[name]
    if name in one.per_head:
        return "heads"
    return "null" if default is None else str(default).lower()
