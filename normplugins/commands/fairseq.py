"""``normplugins fairseq TOOL ...``: run one of fairseq's own tools with our models."""

import argparse

from normplugins import fairseq_tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command; everything after TOOL, including ``--help``, is passed to the tool."""
    parser.usage = "normplugins fairseq TOOL ..."
    parser.epilog = "`normplugins fairseq TOOL --help` shows the options of a tool."
    parser.add_argument("tool", choices=fairseq_tools.TOOLS, help="the tool fairseq-TOOL")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="...", help="the tool's own options")


def execute(options: argparse.Namespace) -> None:
    """Run the tool."""
    fairseq_tools.run_tool(options.tool, options.overrides, our_models=True)
