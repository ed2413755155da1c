"""How the runs of each fairseq task are checked, scored and described."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from normplugins.corpora import ParallelCorpus, RunningText
from normplugins.corpora.languages import has_spaces
from normplugins.evaluation import bleu, perplexity
from normplugins.evaluation.loading import load_model
from normplugins.models.language_model_config import future_label
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines, whole_file, write_text
from normplugins.utils.steps import progress, step

Metrics = dict[str, dict[str, Any]]


class _RunTask:
    """Base class for the tasks of runs.

    A task has

    - ``CORPUS``, the class of its corpora;
    - ``RESCORABLE``, the config keys that ``normplugins evaluate`` may change;
    - ``OUTPUT``, the suffix of the file that ``evaluate`` writes;
    - ``OUTPUTS``, glob patterns of all files that scoring writes;
    - the methods ``evaluate``, ``describe`` and ``summary``, which score a checkpoint and describe metrics;
    - ``bare_task``, which makes a fairseq task without a corpus.
    """

    def check(self, config: DictConfig) -> None:
        """Raise UserError for settings that cannot work."""

    def check_corpus(self, config: DictConfig, corpus: Any) -> None:
        """Raise UserError for a corpus that the model cannot read."""

    def keep_translations(self, config: DictConfig, corpus: Any, output: Path, kept: Path) -> bool:  # noqa: ARG002
        """Write the file ``kept`` that is published with the record, if the task has one; return whether it has."""
        return False

    def label(self, settings: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Return the warning to print beside each number of a run with these flat settings, or an empty string."""
        return ""

    def dummy_batch(self, tokens: Tensor) -> dict[str, Any]:
        """Return a batch in the format of fairseq's datasets, with targets ``tokens`` (B, T) that end in ``</s>``."""
        inputs = {"src_tokens": tokens.roll(1, dims=1), "src_lengths": torch.full((len(tokens),), tokens.shape[1])}
        return {
            "id": torch.arange(len(tokens)),
            "nsentences": len(tokens),
            "ntokens": tokens.numel(),
            "net_input": inputs,
            "target": tokens,
        }


class Translation(_RunTask):
    """Translation: the test set is translated and scored."""

    CORPUS = ParallelCorpus
    RESCORABLE = ("evaluate.recalibrate", *(f"evaluate.{name}" for name in bleu.SEARCH), "evaluate.split_compounds")
    OUTPUT = "hypotheses"
    OUTPUTS = ("test*.hypotheses", "seed*.tsv.gz")

    def check(self, config: DictConfig) -> None:
        """Raise UserError for settings that cannot work."""
        if config.evaluate.split_compounds and not has_spaces(config.corpus.target):
            raise UserError(
                f"evaluate.split_compounds=true splits hyphenated words, and {config.corpus.target} is written without "
                "spaces: set it to false"
            )

    def check_corpus(self, config: DictConfig, corpus: Any) -> None:
        """Refuse validation and test sentences that are too long for the model, before it is trained."""
        batches = {"valid": "dataset.max_tokens_valid", "test": "evaluate.max_tokens"}
        for split, key in batches.items():
            lengths = corpus.manifest["longest"][split]
            for side, length in lengths.items():
                most = min(config[section][f"max_{side}_positions"] for section in ("model", "task"))
                if length > most:
                    raise UserError(
                        f"the longest {side} sentence of the {split} set has {length:,} subwords, but the model takes "
                        f"at most {most:,}: set model.max_{side}_positions and task.max_{side}_positions to {length}"
                    )
            longest, most = max(lengths.values()), OmegaConf.select(config, key)
            if most and longest > most and (split == "valid" or config.evaluate.translate):
                raise UserError(
                    f"a sentence of the {split} set has {longest:,} subwords, more than a batch may hold: "
                    f"set {key} to at least {longest} (it is {most})"
                )

    def evaluate(
        self, config: DictConfig, checkpoint: Path, corpus: Any, output: Path
    ) -> tuple[dict[str, Metrics], dict[str, float]]:
        """Translate and score the test set, and write the file ``output`` with one translation per line.

        Returns metrics by test set and name, as they are stored in a record, and the speed, without the time that
        loading the model takes; both are empty with ``evaluate.translate=false``.
        """
        if not config.evaluate.translate:
            return {}, {}
        model, task = load_model(checkpoint, corpus.bin_dir, config.common.cpu)
        begun = time.perf_counter()
        lines = bleu.translate(model, task, corpus, config.evaluate, checkpoint.name)
        seconds = time.perf_counter() - begun
        write_text(output, lines)
        speed = {"seconds": round(seconds, 1), "sentences_per_second": round(len(lines) / seconds, 2)}
        with step(f"scoring {len(lines):,} translations"):
            return bleu.score(lines, corpus, config.evaluate.split_compounds), speed

    def keep_translations(self, config: DictConfig, corpus: Any, output: Path, kept: Path) -> bool:
        """Write the translations in ``output`` with the statistics of their BLEU."""
        lines = read_lines(output)
        bleu.write_translations(kept, lines, *bleu.scored_tokens(lines, corpus, config.evaluate.split_compounds))
        return True

    def describe(self, metric: Mapping[str, Any]) -> str:
        """Return a metric of a record as one line."""
        if "precisions" not in metric:
            return f"{metric['score']:.2f}"
        parts = "/".join(f"{precision:.1f}" for precision in metric["precisions"])
        return (
            f"BLEU = {metric['score']:.2f} {parts} (BP={metric['brevity_penalty']:.3f}, "
            f"syslen={metric['system_length']}, reflen={metric['reference_length']})"
        )

    def summary(self, metrics: Metrics) -> str:
        """Return the BLEU scores of one test set."""
        name, title = ("bleu", "BLEU") if "bleu" in metrics else ("bleu_compound", "BLEU, compounds split,")
        plain = metrics["sacrebleu"]
        penalty = f"(BP {plain['brevity_penalty']:.3f})"
        return f"{title} {metrics[name]['score']:.2f}  sacreBLEU {plain['score']:.2f} {penalty}"

    def bare_task(self, settings: DictConfig, source: Dictionary, target: Dictionary | None = None) -> TranslationTask:
        """Return a fairseq task without a corpus; if ``target`` is None, both languages share ``source``."""
        return TranslationTask(settings, source, target or source)

    def dummy_batch(self, tokens: Tensor) -> dict[str, Any]:
        """Return a batch of sentences that are their own translation, with targets (B, T)."""
        batch = super().dummy_batch(tokens)
        batch["net_input"] |= {"src_tokens": tokens, "prev_output_tokens": tokens.roll(1, dims=1)}
        return batch


class LanguageModeling(_RunTask):
    """Language modeling: the perplexity of the test text is measured."""

    CORPUS = RunningText
    RESCORABLE = ("evaluate.recalibrate", "evaluate.segment", "evaluate.context", "evaluate.batch_size")
    OUTPUT = "logprobs.npy"
    OUTPUTS = ("test*.logprobs.npy",)

    def check(self, config: DictConfig) -> None:
        """Raise UserError for settings that cannot work, including the windows that are scored after training."""
        segment = config.task.tokens_per_sample
        most = config.model.get("max_positions", segment)
        if segment > most:
            raise UserError(
                f"task.tokens_per_sample={segment}, but the model takes at most {most} tokens (model.max_positions)"
            )
        windows(config).check(most)
        if config.criterion._name == "adaptive_loss" and not config.model.adaptive_softmax_cutoff:
            raise UserError(
                "criterion=adaptive_loss needs model.adaptive_softmax_cutoff; for a full softmax use cross_entropy"
            )
        if config.dataset.max_tokens is not None and config.dataset.max_tokens < segment:
            raise UserError(
                f"dataset.max_tokens={config.dataset.max_tokens} is less than the {segment} tokens of a segment"
            )

    def evaluate(
        self, config: DictConfig, checkpoint: Path, corpus: Any, output: Path
    ) -> tuple[dict[str, Metrics], dict[str, float]]:
        """Measure the perplexity of the test text, and write the log-probabilities of its tokens to ``output``.

        Returns as for a translation. The metric ``ppl`` is over all tokens. ``ppl_full_segments`` leaves out the tokens
        of a shorter last window, as the published code does. It is absent if the text is shorter than one window or in
        subwords.
        """
        how, test = windows(config), corpus.manifest["counts"]["test"]
        model, task = load_model(checkpoint, corpus.bin_dir, config.common.cpu)
        inputs, targets = perplexity.load_test_text(task, corpus.bin_dir)
        how.check(model.max_positions())
        batches = progress(list(how.batches(len(targets))), f"scoring {len(targets):,} tokens with {checkpoint.name}")
        begun = time.perf_counter()
        logprobs = perplexity.text_logprobs(model, inputs, targets, how, batches)
        seconds = time.perf_counter() - begun
        with whole_file(output) as temporary, temporary.open("wb") as file:
            np.save(file, logprobs)
        causal = not future_label(config.model.norm, config.model.get("causal", True))
        subwords = corpus.manifest.get("subword", {}).get("kind", "")
        words = test["words"] + test["lines"] if subwords else None
        metrics = {"ppl": perplexity.perplexity(logprobs, how, causal, "counted", subwords, words)}
        if (full := how.tokens_in_full_windows(len(logprobs))) and not subwords:
            metrics["ppl_full_segments"] = perplexity.perplexity(logprobs[:full], how, causal, "dropped")
        speed = {"seconds": round(seconds, 1), "tokens_per_second": round(len(logprobs) / seconds, 1)}
        return {"test": metrics}, speed

    def describe(self, metric: Mapping[str, Any]) -> str:
        """Return a metric of a record as one line."""
        return f"perplexity = {metric['score']:.2f} ({metric['nats']:.4f} nats, {metric['tokens']:,} tokens)"

    def summary(self, metrics: Metrics) -> str:
        """Return the perplexity."""
        return f"perplexity {metrics['ppl']['score']:.2f}"

    def label(self, settings: Mapping[str, Any]) -> str:
        """Return a warning if the model sees future tokens, because its perplexity is then not a language model's."""
        return future_label(settings["model.norm"], settings.get("model.causal", True))

    def bare_task(self, settings: DictConfig, dictionary: Dictionary) -> LanguageModelingTask:
        """Return a fairseq task without a corpus."""
        return LanguageModelingTask(settings, dictionary)


RunTask = Translation | LanguageModeling
RUN_TASKS: dict[str, RunTask] = {"translation": Translation(), "language_modeling": LanguageModeling()}


def run_task(task: str) -> RunTask:
    """Return the task of a run by its config's ``task._name``. Raises UserError if it is unknown."""
    if task not in RUN_TASKS:
        raise UserError(f"unknown task '{task}'; known tasks: {', '.join(RUN_TASKS)}")
    return RUN_TASKS[task]


def windows(config: DictConfig) -> perplexity.Windows:
    """Return how the test text of a language model is split."""
    section = config.evaluate
    return perplexity.Windows(section.segment or config.task.tokens_per_sample, section.context, section.batch_size)
