"""Loads a trained run, to translate, score or continue new text. ``normplugins.load`` is the entry point."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.hub_utils import GeneratorHubInterface
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from normplugins.corpora import ParallelCorpus, Prepared, RunningText, corpus_config, open_prepared, prepare
from normplugins.corpora.raw_text import TextPipeline, text_pipeline
from normplugins.evaluation import bleu, perplexity
from normplugins.evaluation.beam_search import Hypothesis
from normplugins.evaluation.generation import Sampling, continue_text
from normplugins.evaluation.loading import load_model
from normplugins.evaluation.reestimate import recalibration_batches
from normplugins.evaluation.tasks import windows
from normplugins.runs import folder, provenance
from normplugins.runs.check import check_bfloat16
from normplugins.runs.run import run_label
from normplugins.runs.scoring import missing, set_up_process
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.steps import progress

Engine = Callable[[list[Tensor], DictConfig], list[list[Hypothesis]]]
"""Translates sentences (T,), each ended by ``</s>``, with the settings of the config's section ``evaluate``."""


@dataclass(frozen=True)
class Translation:
    """A translation, and its natural log-probability divided by its length to the power of the length penalty."""

    text: str
    score: float


@dataclass(frozen=True)
class LineScore:
    """The natural log-probability of a line, and its token (subword) and word counts; all include the line's end."""

    logprob: float
    tokens: int
    words: int


class TrainedRun:
    """The model of a run and how its text is prepared.

    Attributes:
        model, task: the fairseq model, in evaluation mode, and its fairseq task.
        config: the run's config.
        record: the run's record; None if the run has not ended.
        checkpoint: the checkpoint's name.
        corpus, pipeline: the prepared corpus of the run, and the pipeline that prepares text in the same way.
        translates: True for a translation model, False for a language model.
        label: how the model sees the future, if it does (its perplexity is then not a language model's); usually empty.
        unknown: words in the text of the last call that the vocabulary cannot spell, in the order of the text.
    """

    def __init__(self, directory: Path, checkpoint: Path, config: DictConfig, corpus: Prepared) -> None:
        self.config, self.checkpoint, self.corpus = config, checkpoint.name, corpus
        self.record: dict[str, Any] | None = folder.read_record(directory, config)
        self.model, self.task = load_model(checkpoint, corpus.bin_dir, config.common.cpu)
        settings = corpus_config(config.corpus)
        assert isinstance(settings, ParallelCorpus | RunningText)
        self.pipeline: TextPipeline = text_pipeline(settings, corpus)
        self.translates, self.label = isinstance(settings, ParallelCorpus), run_label(config)
        self.unknown: list[str] = []

    def translate(self, lines: Sequence[str], beam: int | None = None) -> list[str]:
        """Return the best translation of each raw line as plain text; an empty line stays empty.

        Raises as :meth:`translate_nbest` does.
        """
        return [found[0].text for found in self.translate_nbest(lines, 1, beam)]

    def translate_nbest(
        self,
        lines: Sequence[str],
        nbest: int,
        beam: int | None = None,
        where: str = "the text",
        engine: Engine | None = None,
    ) -> list[list[Translation]]:
        """Return up to ``nbest`` translations of each raw line, best first.

        Args:
            lines: raw text, one sentence per line.
            nbest: how many translations are wanted.
            beam: width of the beam; None: as the run was scored.
            where: the name of the text, for messages.
            engine: what searches for the translations; None: this package's beam search.

        Raises:
            UserError: the run is of a language model, a line is too long for the model or contains a symbol of the
                dictionary such as ``<pad>``, the beam is less than 1, or ``nbest`` is not between 1 and the beam.
        """
        if not self.translates:
            raise UserError("this is a run of a language model, which cannot translate: use score or generate")
        search = self.config.evaluate.copy()
        OmegaConf.set_struct(search, False)
        search.beam = search.beam if beam is None else beam
        if search.beam < 1:
            raise UserError(f"a beam of {search.beam}: must be at least 1")
        if not 1 <= nbest <= search.beam:
            raise UserError(f"{nbest} translations of each line from a beam of {search.beam}: use 1 to {search.beam}")
        sentences = self._encode(lines, where, self.model.max_positions()[0], "model.max_source_positions")
        asked = [number for number, sentence in enumerate(sentences) if len(sentence) > 1]  # more than </s>
        search.max_tokens = max([search.max_tokens, *(len(sentence) for sentence in sentences)])
        found = (engine or self.search)([sentences[number] for number in asked], search) if asked else []
        translations = [[Translation("", 0.0)] for _ in lines]
        for number, hypotheses in zip(asked, found, strict=True):
            translations[number] = [
                Translation(
                    self.pipeline.decode(self.task.target_dictionary.string(one["tokens"])), float(one["score"])
                )
                for one in hypotheses[:nbest]
            ]
        return translations

    def search(self, sentences: list[Tensor], search: DictConfig, precision: str = "float32") -> list[list[Hypothesis]]:
        """Translate sentences with this package's beam search, as an :data:`Engine`.

        With ``precision=bf16``, matrix products and activations are computed in bfloat16.

        Raises:
            UserError: ``precision=bf16`` on a device without bfloat16 arithmetic.
        """
        device = next(self.model.parameters()).device.type
        if precision == "bf16":
            check_bfloat16(device == "cpu")
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return bleu.search_sentences(self.model, self.task, sentences, search)

    def score(self, lines: Sequence[str], where: str = "the text") -> list[LineScore]:
        """Return the log-probability of each line under a language model.

        The lines are one running text, read in windows as when the run was scored, and a line is predicted from the
        lines before it. ``where`` names the text in messages.

        Raises:
            UserError: the run is of a translation model, or a line contains a symbol such as ``<pad>``.
        """
        self._require_language_model("cannot score text")
        lines_tokens = self._encode(lines, where)
        how = windows(self.config)
        how.check(self.model.max_positions())
        if not lines:
            return []
        text = torch.cat(lines_tokens)
        inputs = torch.cat([torch.tensor([self.task.source_dictionary.eos()]), text[:-1]])
        batches = progress(list(how.batches(len(text))), "scoring", echo=None)
        logprobs = perplexity.text_logprobs(self.model, inputs, text, how, batches)
        ends = np.cumsum([0, *map(len, lines_tokens)])
        return [
            LineScore(float(logprobs[begin:end].sum(dtype=np.float64)), int(end - begin), len(line.split()) + 1)
            for line, begin, end in zip(lines, ends, ends[1:], strict=False)
        ]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling | None = None, longest: int = 100, where: str = "the text"
    ) -> list[str]:
        """Continue each prompt up to the end of its line; the results begin with the prompts as the model reads them.

        Args:
            prompts: the beginnings of lines; an empty prompt lets the model begin the line.
            sampling: how tokens are chosen; None: sampled from the model's distribution.
            longest: tokens after which a line is cut off.
            where: the name of the prompts, for messages.

        Raises:
            UserError: the run is of a translation model, the model sees later tokens, or ``longest`` is less than 1.
        """
        self._require_language_model("cannot continue text")
        if longest < 1:
            raise UserError(f"at most {longest} new tokens: must be at least 1")
        self.model.decoder.cfg.require_causal()
        sampling = sampling or Sampling()
        sampling.check()
        dictionary, context = self.task.source_dictionary, windows(self.config).segment
        generator, results = torch.Generator().manual_seed(sampling.seed), []
        encoded = self._encode(prompts, where)
        for tokens in progress(encoded, "generating", echo=None):
            begin = torch.cat([tokens.new_tensor([dictionary.eos()]), tokens[:-1]])
            new = continue_text(self.model, begin, sampling, longest, context, generator)
            results.append(self.pipeline.decode(" ".join(dictionary[token] for token in [*begin[1:].tolist(), *new])))
        return results

    def hub_interface(self) -> GeneratorHubInterface:
        """Return fairseq's interface for PyTorch Hub, which prepares text as the run's corpus was prepared."""
        config, search, text = OmegaConf.structured(FairseqConfig), self.config.evaluate, self.pipeline
        OmegaConf.set_struct(config, False)
        config.task, config.dataset.max_tokens = self.task.cfg, search.get("max_tokens", self.config.dataset.max_tokens)
        if self.translates:
            config.generation.lenpen = search.length_penalty
            config.generation.max_len_a, config.generation.max_len_b = search.max_length_a, search.max_length_b
        hub = GeneratorHubInterface(config, self.task, [self.model])
        hub.tokenizer = SimpleNamespace(encode=text.tokenize, decode=lambda line: text.to_text([line])[0])
        hub.bpe = SimpleNamespace(encode=lambda line: " ".join(text.split(line)), decode=text.join)
        return hub.to(next(self.model.parameters()).device)

    def _require_language_model(self, what: str) -> None:
        if self.translates:
            raise UserError(f"this is a translation run, which {what}: use translate")

    def _encode(self, lines: Sequence[str], where: str, most: float = math.inf, key: str = "") -> list[Tensor]:
        """Return the tokens of each line (T,), each ended by ``</s>``; update ``unknown``."""
        dictionary, encoded = self.task.source_dictionary, []
        self.unknown = []
        for number, line in enumerate(lines, 1):
            pieces = self.pipeline.encode(line, where, number)
            tokens = torch.tensor([*map(dictionary.index, pieces), dictionary.eos()])
            if len(tokens) > most:
                raise UserError(
                    f"{where}, line {number}: {len(tokens):,} tokens including the end of the sentence, but the "
                    f"model takes at most {most:,} ({key}): split the line"
                )
            if dictionary.unk() in tokens:
                self.unknown += self.pipeline.unknown_words(pieces, dictionary)
            encoded.append(tokens)
        return encoded


def load(run: str | Path) -> TrainedRun:
    """Load the model of a run.

    ``run`` is the folder of a run, which stands for the checkpoint that its record scores; or a checkpoint in it, such
    as ``checkpoint_last.pt`` or a folded one.

    Raises:
        UserError: the folder holds no such run, its checkpoint is missing or damaged, or its corpus has changed.
    """
    path = Path(run)
    directory = path.parent if path.is_file() else path
    config = folder.stored_config(directory)
    of_record = checkpoints.scored(directory, config.evaluate.average, recalibration_batches(config))
    scored = path if path.is_file() else of_record
    if not scored.exists():  # before the corpus is prepared
        raise UserError(missing(scored, f"The newest one is loaded by its path {directory / checkpoints.LAST}"))
    set_up_process(config)
    settings, root = corpus_config(config.corpus), Path(config.data_dir)
    corpus = open_prepared(settings, root) or prepare(settings, root, partial(print, file=sys.stderr))
    provenance.check_corpus(directory, corpus)
    checkpoints.load(scored, folder.identity(directory, corpus))
    return TrainedRun(directory, scored, config, corpus)
