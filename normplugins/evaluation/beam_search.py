"""A faster beam search that returns the same hypotheses as fairseq's, in the same order and with the same scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from fairseq import search, sequence_generator
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from normplugins.evaluation.incremental_decoding import DecodingState
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError

Hypothesis = dict[str, Tensor]

BLOCK = 32
"""Log-probabilities per block in the search for the largest ones."""
COMPACT_BELOW = 7 / 8
"""Finished sentences are dropped once at most this fraction of a batch is unfinished: dropping copies the cache."""


def patch_fairseq() -> None:
    """Replace fairseq's SequenceGenerator, also in its command-line tools and in validation by BLEU."""
    sequence_generator.SequenceGenerator = BeamSearch


class BeamSearch(SequenceGenerator):
    """fairseq's SequenceGenerator with a faster path for plain beam search with one ``norm_transformer``.

    fairseq's code handles sampling, prefixes, constraints, language models, bans on repeated n-grams and forbidden
    words. The arguments are SequenceGenerator's.
    """

    begin: Callable[[Tensor], Any] | None = None
    """If not None, a function from source tokens (B, S) to an object with DecodingState's ``device`` and ``logits``."""

    def __new__(cls, models: Iterable[nn.Module], *arguments: Any, **options: Any) -> SequenceGenerator:
        """Return fairseq's own generator for other models, because it can be compiled by ``torch.jit.script``."""
        if isinstance(models, EnsembleModel):
            models = models.models
        if any(isinstance(model, NormTransformer) for model in models):
            return super().__new__(cls)
        return SequenceGenerator(models, *arguments, **options)

    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
        bos_token: int | None = None,
    ) -> list[list[Hypothesis]]:
        if self.beam_size < 1:
            raise UserError(f"a beam of {self.beam_size}: must be at least 1")
        model, inputs = self.model.single_model, sample["net_input"]
        asked = (prefix_tokens, constraints, self.lm_model, self.repeat_ngram_blocker, self.token_indices_to_suppress)
        plain = self.model.models_size == 1 and type(self.search) is search.BeamSearch and not self.match_source_len
        # fairseq takes fewer candidates if the vocabulary is much smaller than the beam.
        enough = 2 * self.beam_size <= self.vocab_size - 2
        if not isinstance(model, NormTransformer) or not plain or not enough or any(x is not None for x in asked):
            if self.begin is not None:
                raise UserError(f"a beam of {self.beam_size} is too wide for a vocabulary of {self.vocab_size} tokens")
            return super()._generate(sample, prefix_tokens, constraints, bos_token)
        max_len = min(int(self.max_len_a * inputs["src_tokens"].size(1) + self.max_len_b), self.max_len - 1)
        if self.min_len > max_len:
            raise UserError(
                f"the maximum length of a translation, {max_len} tokens, is less than the minimum, {self.min_len}"
            )
        first = self.eos if bos_token is None else bos_token
        with torch.inference_mode(), parametrize.cached():  # weight-normalized weights are computed only once
            if self.begin is not None:
                state = self.begin(inputs["src_tokens"])
            else:
                state = DecodingState(model.decoder, model.encoder(inputs["src_tokens"], inputs.get("src_lengths")))
            found = self._search(state, len(inputs["src_tokens"]), max_len, first)
        return found.hypotheses()

    def _search(self, state: Any, count: int, max_len: int, first: int) -> _Found:
        beam, eos = self.beam_size, self.eos
        device = state.device
        found = _Found(count, beam, max_len + 1, device)
        # For the unfinished sentences: their places in the batch, and the tokens and scores of each hypothesis.
        places = torch.arange(count, device=device)
        tokens = torch.full((count, 1), first, device=device)
        scores = torch.zeros(count, 0, device=device)
        origins = sentences = None
        for step in range(max_len + 1):
            logits = state.logits(tokens[:, -1].view(len(places), -1), origins, sentences)
            logits = logits.float().view(len(places), -1, self.vocab_size)
            totals = (scores[:, -1] if step else scores.new_zeros(count)).view(len(places), -1)
            values, words, origins = self._candidates(logits, totals, step, step == max_len)
            ends = words.eq(eos) & values.isfinite()
            which = ends[:, :beam]
            sentences = None
            if bool(which.any()):
                divisor = (step + 1) ** self.len_penalty if self.normalize_scores else 1.0
                found.add(places, which, values, origins, tokens, scores, eos, divisor)
                going = found.count[places] < beam
                left = int(going.sum())
                if not left:
                    break
                order = ends.byte().argsort(dim=1, stable=True)[:, :beam]
                if left <= len(places) * COMPACT_BELOW:
                    sentences = going.nonzero().squeeze(1)
                    places, order = places[sentences], order[sentences]
                    values, words, origins = (x[sentences] for x in (values, words, origins))
                values, words, origins = (x.gather(1, order) for x in (values, words, origins))
            else:
                values, words, origins = (x[:, :beam] for x in (values, words, origins))
            origins = origins.flatten()
            tokens = torch.cat([tokens.index_select(0, origins), words.reshape(-1, 1)], dim=1)
            scores = torch.cat([scores.index_select(0, origins), values.reshape(-1, 1)], dim=1)
        return found

    def _candidates(self, logits: Tensor, totals: Tensor, step: int, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best continuations of each sentence's hypotheses: two per beam slot, since half of them may end.

        Args:
            logits: (B, n, V), overwritten.
            totals: scores of the hypotheses so far (B, n).
            step: number of tokens generated before this one.
            last: whether the hypotheses must end here.

        Returns:
            The scores, best first, the tokens, and the indices of the continued hypotheses among the hypotheses of all
            sentences. Each is (B, candidates).
        """
        if self.temperature != 1:
            logits.div_(self.temperature)
        logprobs = F.log_softmax(logits, dim=-1)
        if last:
            values, order = (logprobs[:, :, self.eos] + totals).sort(dim=1, descending=True)
            sentence = torch.arange(len(order), device=order.device)[:, None]
            return values, torch.full_like(order, self.eos), sentence * order.size(1) + order
        logprobs[:, :, self.pad] = -torch.inf
        if self.unk_penalty:
            logprobs[:, :, self.unk] -= self.unk_penalty
        if step < self.min_len:
            logprobs[:, :, self.eos] = -torch.inf
        return _best(logprobs, totals, 2 * self.beam_size)


class _Found:
    """The finished hypotheses: at most ``beam`` for each of ``count`` sentences, in the order in which they ended."""

    def __init__(self, count: int, beam: int, longest: int, device: torch.device) -> None:
        self.count = torch.zeros(count, dtype=torch.long, device=device)
        self.lengths = torch.zeros(count, beam, dtype=torch.long, device=device)
        self.scores = torch.full((count, beam), -torch.inf, device=device)
        self.tokens = torch.zeros(count, beam, longest, dtype=torch.long, device=device)
        self.steps = torch.zeros(count, beam, longest, device=device)

    def add(
        self,
        places: Tensor,
        which: Tensor,
        values: Tensor,
        origins: Tensor,
        tokens: Tensor,
        scores: Tensor,
        eos: int,
        divisor: float,
    ) -> None:
        """Add the candidates that end their hypotheses, marked in ``which`` (B, beam), up to ``beam`` per sentence."""
        rank = self.count[places, None] + which.cumsum(dim=1) - 1
        row, column = (which & (rank < self.lengths.size(1))).nonzero(as_tuple=True)
        sentence, place = places[row], rank[row, column]
        origin, total = origins[row, column], values[row, column]
        length = tokens.size(1)
        self.lengths[sentence, place] = length
        self.scores[sentence, place] = total / divisor
        self.tokens[sentence, place, : length - 1] = tokens[origin, 1:]
        self.tokens[sentence, place, length - 1] = eos
        sums = F.pad(torch.cat([scores[origin], total[:, None]], dim=1), (1, 0))
        self.steps[sentence, place, :length] = sums.diff(dim=1)
        self.count[places] = (self.count[places] + which.sum(dim=1)).clamp(max=self.lengths.size(1))

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Return the hypotheses in SequenceGenerator's format, the best of each sentence first."""
        if not bool(self.count.all()):
            raise UserError("the model gives no finite probability to any translation of some sentence")
        scores, order = self.scores.sort(dim=1, descending=True, stable=True)
        lengths = self.lengths.gather(1, order)
        there = torch.arange(self.tokens.size(2), device=order.device) < lengths[:, :, None]
        tokens, steps = (x.gather(1, order[:, :, None].expand_as(x))[there] for x in (self.tokens, self.steps))
        each, nothing = lengths[lengths > 0].tolist(), torch.empty(0)
        of_all = zip(tokens.split(each), scores[lengths > 0].unbind(), steps.split(each), strict=True)
        every = [
            {"tokens": words, "score": score, "attention": nothing, "alignment": nothing, "positional_scores": by_step}
            for words, score, by_step in of_all
        ]
        ends = self.count.cumsum(0).tolist()
        return [every[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _best(logprobs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``count`` largest sums of logprobs (B, n, V) and totals (B, n) for each of the B sentences.

    ``topk`` is slow on long rows. The largest values lie in the blocks with the largest maxima, so this function first
    selects blocks, and then searches only these.

    Returns:
        The sums, best first, and their indices in V and in B * n. Each is (B, count).
    """
    sentences, hypotheses, size = logprobs.shape
    blocks, rest = divmod(size, BLOCK)
    maxima = logprobs[:, :, : size - rest].unflatten(2, (blocks, BLOCK)).amax(dim=3)
    if rest:
        maxima = torch.cat([maxima, logprobs[:, :, size - rest :].amax(dim=2, keepdim=True)], dim=2)
    width = maxima.size(2)
    maxima = maxima.add_(totals[:, :, None]).nan_to_num_(nan=-torch.inf, neginf=-torch.inf).flatten(1)
    chosen = maxima.topk(min(count, maxima.size(1)), dim=1).indices
    row = chosen.div(width, rounding_mode="floor")
    origin = row + torch.arange(0, sentences * hypotheses, hypotheses, device=row.device)[:, None]
    word = (chosen % width * BLOCK)[:, :, None] + torch.arange(BLOCK, device=row.device)
    beyond = word >= size if rest else None
    if beyond is not None:
        word.clamp_(max=size - 1)
    values = logprobs.view(-1).take((origin * size)[:, :, None] + word).add_(totals.gather(1, row)[:, :, None])
    values.nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    if beyond is not None:
        values.masked_fill_(beyond, -torch.inf)
    values, order = values.flatten(1).topk(count, dim=1)
    return values, word.flatten(1).gather(1, order), origin.gather(1, order.div(BLOCK, rounding_mode="floor"))
