"""Evaluation: beam search, BLEU, perplexity, causality and re-estimated statistics."""
