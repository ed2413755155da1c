"""The SGML and XML files that test sets of IWSLT and WMT come in: one ``<seg id="1">`` a line."""

from __future__ import annotations

import re
from collections.abc import Iterable

_START, _END = re.compile(r'<seg id="[0-9]*">\s*'), re.compile(r"\s*</seg>\s*")


def segments(lines: Iterable[str]) -> list[str]:
    """Return the text of each line that holds a segment."""
    return [_END.sub("", _START.sub("", line)) for line in lines if "<seg id" in line]


def straight(lines: Iterable[str]) -> list[str]:
    """Replace typographic apostrophes, as fairseq's published recipes do in test sets."""
    return [line.replace("’", "'") for line in lines]
