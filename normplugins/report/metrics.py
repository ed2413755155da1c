"""The names of the metrics in tables and figures."""

METRICS = {
    "bleu": ("BLEU", " (tokenized)"),
    "bleu_compound": ("BLEU, compounds split", " (tokenized)"),
    "sacrebleu": ("sacreBLEU", " (plain text)"),
    "chrf2": ("chrF2", " (plain text)"),
    "ter": ("TER", " (plain text)"),
    "ppl": ("ppl", ""),
    "ppl_full_segments": ("ppl, full segments", ""),
}
"""The metrics in the order of their columns: a short name for headings, and what follows it in notes."""


def metric_name(metric: str) -> str:
    """Return the short name of a metric; an unknown one is its own name."""
    return METRICS.get(metric, (metric,))[0]
