"""Words in a text that would be read as symbols of fairseq's dictionary or of the subword model."""

import re

from normplugins.utils.errors import UserError

UNKNOWN, LINE_END = "<unk>", "</s>"  # as in fairseq's dictionary, which also has <s> and <pad>
_SYMBOLS = {
    "word": re.compile(r"(?<!\S)(?:<s>|<pad>|</s>)(?!\S)"),  # published text at word level holds <unk>
    # A BPE piece may be as long as the rest of its word, and only a piece that does not end the word is marked with @@.
    "bpe": re.compile(r"(?:<s>|<pad>|</s>|<unk>|@@)(?!\S)"),
    # SentencePiece reads ▁ as a blank. It splits its own symbols <s>, </s> and <unk> into pieces, as any other text.
    "sentencepiece": re.compile(r"<pad>|▁"),
}


def has_symbol(line: str) -> bool:
    """Whether a line of words that is split by BPE has a word that would be read as a symbol."""
    return bool(_SYMBOLS["bpe"].search(line))


def refuse_symbols(line: str, level: str, where: str, number: int) -> str:
    """Return the line. Raises UserError if a word of it would be read as a symbol.

    ``level`` is ``word`` or the kind of subwords that the line is split into; ``where`` and ``number`` are the name of
    its file and its number there.
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
