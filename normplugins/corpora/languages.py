"""Languages written without spaces between words, and the sacreBLEU tokenizers with which they are scored."""

from collections.abc import Callable, Sequence

from normplugins.utils.errors import UserError

SCORE_TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char")
"""sacreBLEU's tokenizers for plain text that need no download."""
_WITHOUT_BLANKS = {
    **dict.fromkeys(("zh", "zho", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "bod"), "char"),
}


def has_spaces(language: str) -> bool:
    """Whether a language, given by a code such as ``ja`` or ``zh_CN``, separates words by spaces."""
    return language.partition("_")[0].lower() not in _WITHOUT_BLANKS


def default_score_tokenizer(language: str) -> str:
    """Return the name of the sacreBLEU tokenizer for a language: ``13a`` if it separates words by spaces."""
    return _WITHOUT_BLANKS.get(language.partition("_")[0].lower(), "13a")


def check_score_tokenizer(name: str) -> None:
    """Raise UserError if a sacreBLEU tokenizer does not work on this machine."""
    if not name.endswith("-mecab"):  # only MeCab needs packages and a dictionary
        return
    try:
        score_words([""], name)
    except (ImportError, RuntimeError, AssertionError) as error:  # from sacreBLEU, also for a wrong MeCab dictionary
        raise UserError(
            f"corpus.score_tokenizer={name} needs packages that are not installed: "
            f"pip install 'sacrebleu[{name[:2]}]', or set corpus.score_tokenizer=char"
        ) from error


def score_words(lines: Sequence[str], tokenizer: str) -> list[str]:
    """Return lines of plain text, split into words by a sacreBLEU tokenizer."""
    from sacrebleu.metrics import BLEU

    split: Callable[[str], str] = BLEU(tokenize=tokenizer).tokenizer
    return [split(line) for line in lines]
