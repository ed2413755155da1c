"""Reads what Linux reports about this machine's processor."""

import platform
from functools import cache
from pathlib import Path


@cache
def first_core() -> dict[str, str]:
    """Return the fields of ``/proc/cpuinfo`` for the first core, such as ``cpu family``; empty if not on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def processor_name() -> str:
    """Return the processor's name, with the family and model that distinguish its generations."""
    about = first_core()
    if "model name" not in about:
        return platform.processor()
    return f"{about['model name']} (family {about.get('cpu family', '?')}, model {about.get('model', '?')})"
