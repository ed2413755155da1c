"""``python -m normplugins.norms [--markdown]``: print all norms, or the table of their settings for docs/norms.md."""

import sys

from normplugins.norms import all_settings, known_norms


def settings_table() -> str:
    """Return the settings of all norms as a Markdown table: name, default in each norm, documentation."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, one in all_settings().items():
        by_default: dict[str, list[str]] = {}
        for norm, default in one.defaults.items():
            by_default.setdefault(str(default).lower(), []).append(f"`{norm}`")
        defaults = "; ".join(f"{default}: {', '.join(norms)}" for default, norms in by_default.items())
        meaning = one.help if len(one.docs) > 1 else next(iter(one.docs))
        lines.append(f"| `{name}` | {defaults} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if "--markdown" in sys.argv[1:]:
        print(settings_table())
    else:
        for norm, summary in known_norms().items():
            print(f"{norm:<12} {summary}")
