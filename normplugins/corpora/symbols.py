"""Refuses words in a text that would be read as symbols of fairseq's dictionary or of the subword model."""

import re

from normplugins.utils.errors import UserError

UNKNOWN, LINE_END = "<unk>", "</s>"  # as in fairseq's dictionary, which also has <s> and <pad>
_SYMBOLS = {
    "word": ("<s>", "<pad>", LINE_END),  # not <unk>, which published text at word level contains
    "bpe": ("<s>", "<pad>", LINE_END, UNKNOWN, "@@"),
    "sentencepiece": ("<pad>", "▁"),  # it splits its own symbols <s>, </s> and <unk> like other text
}
_FOUND = {
    "word": re.compile(rf"(?<!\S)(?:{'|'.join(_SYMBOLS['word'])})(?!\S)"),
    # A BPE piece may span the rest of its word, and only a piece that does not end the word is marked with @@.
    "bpe": re.compile(rf"(?:{'|'.join(_SYMBOLS['bpe'])})(?!\S)"),
    "sentencepiece": re.compile("|".join(_SYMBOLS["sentencepiece"])),
}


def has_symbol(line: str) -> bool:
    """Whether a word of this line would be read as a symbol after BPE."""
    return bool(_FOUND["bpe"].search(line))


def refuse_symbols(line: str, level: str, where: str, number: int) -> str:
    """Return the line unchanged. Raises UserError if one of its words would be read as a symbol.

    ``level`` is ``word`` or the kind of subwords that the line is split into; ``where`` and ``number`` are its file and
    its line number.
    """
    if any(symbol in line for symbol in _SYMBOLS[level]) and (found := _FOUND[level].search(line)):
        kind, remedy = "fairseq's dictionary", "remove it from the file"
        if not found[0].startswith("<"):
            other = "sentencepiece" if level == "bpe" else "bpe"
            kind, remedy = f"the {level} subwords", f"{remedy}, or set corpus.subword={other}"
        raise UserError(
            f"{where}, line {number}: {found[0]} would be read as a symbol of {kind}, not as text; {remedy}"
        )
    return line
