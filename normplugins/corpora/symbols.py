"""Refuses words in a text that would be read as symbols of fairseq's dictionary or of the subword model."""

import re

from normplugins.utils.errors import UserError

UNKNOWN, LINE_END = "<unk>", "</s>"  # as in fairseq's dictionary, which also has <s> and <pad>
_SYMBOLS = {
    "word": re.compile(rf"(?<!\S)(?:<s>|<pad>|{LINE_END})(?!\S)"),  # not <unk>, which published text contains
    # A BPE piece may span the rest of its word, and only a piece that does not end the word is marked with @@.
    "bpe": re.compile(rf"(?:<s>|<pad>|{LINE_END}|{UNKNOWN}|@@)(?!\S)"),
    "sentencepiece": re.compile("<pad>|▁"),  # it splits its own symbols <s>, </s> and <unk> like other text
}


def has_symbol(line: str) -> bool:
    """Whether a word of this line would be read as a symbol after BPE."""
    return bool(_SYMBOLS["bpe"].search(line))


def refuse_symbols(line: str, level: str, where: str, number: int) -> str:
    """Return the line unchanged. Raises UserError if one of its words would be read as a symbol.

    ``level`` is ``word`` or the kind of subwords that the line is split into; ``where`` and ``number`` are its file and
    its line number.
    """
    if found := _SYMBOLS[level].search(line):
        kind, remedy = "fairseq's dictionary", "remove it from the file"
        if not found[0].startswith("<"):
            other = "sentencepiece" if level == "bpe" else "bpe"
            kind, remedy = f"the {level} subwords", f"{remedy}, or set corpus.subword={other}"
        raise UserError(
            f"{where}, line {number}: {found[0]} would be read as a symbol of {kind}, not as text; {remedy}"
        )
    return line
