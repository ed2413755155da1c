"""Languages written without blanks between words, and sacreBLEU's tokenizers, by which they are scored."""

import re
from collections.abc import Callable, Sequence

from normplugins.utils.errors import UserError

SCORE_TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char")
"""sacreBLEU's tokenizers for plain text that need no download."""
_WITHOUT_BLANKS = {
    **dict.fromkeys(("zh", "zho", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "bod"), "char"),
}
# A blank between tokens stays only between two tokens in ASCII, such as "New York" in Japanese text.
_BLANK_TO_DROP = re.compile(r"(?<![!-~]) | (?![!-~])")


def has_blanks(language: str) -> bool:
    """Whether a language, by its code such as ``ja`` or ``zh_CN``, separates words by blanks."""
    return language.partition("_")[0].lower() not in _WITHOUT_BLANKS


def default_score_tokenizer(language: str) -> str:
    """Return the name of sacreBLEU's tokenizer for a language: 13a if words are separated by blanks."""
    return _WITHOUT_BLANKS.get(language.partition("_")[0].lower(), "13a")


def check_score_tokenizer(name: str) -> None:
    """Raise UserError if a tokenizer of sacreBLEU cannot be used here, so that a run fails before it trains."""
    if not name.endswith("-mecab"):  # only MeCab needs packages and a dictionary
        return
    try:
        score_words([""], name)
    except (ImportError, RuntimeError, AssertionError) as error:  # of sacreBLEU, also if MeCab has another dictionary
        raise UserError(
            f"corpus.score_tokenizer={name} needs packages that are not installed: "
            f"pip install 'sacrebleu[{name[:2]}]', or set corpus.score_tokenizer=char"
        ) from error


def score_words(lines: Sequence[str], tokenizer: str) -> list[str]:
    """Return lines of plain text split into words by a tokenizer of sacreBLEU."""
    from sacrebleu.metrics import BLEU

    split: Callable[[str], str] = BLEU(tokenize=tokenizer).tokenizer
    return [split(line) for line in lines]


def join_tokens(line: str) -> str:
    """Return a line of tokens as text of a language without blanks."""
    return _BLANK_TO_DROP.sub("", line)
