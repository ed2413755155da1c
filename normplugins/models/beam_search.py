"""Beam search that finds what fairseq's finds, sooner: the same hypotheses in the same order, with the same scores."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from fairseq import search, sequence_generator
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize

from normplugins.errors import UserError
from normplugins.models.decoding import DecodingState
from normplugins.models.transformer import NormTransformer

Hypothesis = dict[str, Tensor]

BLOCK = 32
"""Log-probabilities are looked through in blocks of so many."""
KEPT = 7 / 8
"""Sentences whose search has ended are dropped when no more than this part of a batch is left: dropping copies."""


def use_everywhere() -> None:
    """Let fairseq's tasks build this search: in its command lines too, and for validation by BLEU."""
    sequence_generator.SequenceGenerator = BeamSearch


class BeamSearch(SequenceGenerator):
    """fairseq's SequenceGenerator, which leaves to fairseq what it does not do itself.

    It does a plain beam search with one ``norm_transformer``: no sampling, prefix, constraint, language model, ban on
    repeated n-grams, or forbidden word. The arguments are SequenceGenerator's.
    """

    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
        bos_token: int | None = None,
    ) -> list[list[Hypothesis]]:
        model, inputs = self.model.single_model, sample["net_input"]
        asked = (prefix_tokens, constraints, self.lm_model, self.repeat_ngram_blocker, self.token_indices_to_suppress)
        plain = self.model.models_size == 1 and type(self.search) is search.BeamSearch and not self.match_source_len
        # Of a vocabulary much smaller than the beam, fairseq takes fewer candidates.
        enough = 2 * self.beam_size <= self.vocab_size - 2
        if not isinstance(model, NormTransformer) or not plain or not enough or any(x is not None for x in asked):
            return super()._generate(sample, prefix_tokens, constraints, bos_token)
        max_len = min(int(self.max_len_a * inputs["src_tokens"].size(1) + self.max_len_b), self.max_len - 1)
        if self.min_len > max_len:
            raise UserError(f"the longest translation, {max_len} tokens, is shorter than the shortest, {self.min_len}")
        with parametrize.cached():  # weights that a norm computes are computed once
            state = DecodingState(model.decoder, model.encoder(inputs["src_tokens"], inputs.get("src_lengths")))
            return self._search(state, max_len, self.eos if bos_token is None else bos_token)

    def _search(self, state: DecodingState, max_len: int, first: int) -> list[list[Hypothesis]]:
        beam, eos = self.beam_size, self.eos
        device, count = state.sees.device, state.sees.size(0)
        found = _Found(count, beam, max_len + 1, device)
        # Of the sentences still searched: their places in the batch, and of each hypothesis its tokens and scores.
        places = torch.arange(count, device=device)
        tokens = torch.full((count, 1, 1), first, device=device)
        scores = torch.zeros(count, 1, 0, device=device)
        parents = sentences = None
        for step in range(max_len + 1):
            features = state.step(tokens[:, :, -1], parents, sentences)
            totals = scores[:, :, -1] if step else scores.new_zeros(count, 1)
            candidates = self._candidates(state.decoder.output_layer(features).float(), totals, step, step == max_len)
            values, words, origins = candidates
            ends = words.eq(eos) & values.isfinite()
            if bool(ends[:, :beam].any()):
                which = ends[:, :beam]
                found.add(places, which, values, origins, tokens, scores, eos, self._divisor(step))
            going = found.count[places] < beam
            left = int(going.sum())
            if not left:
                break
            order = ends.byte().argsort(dim=1, stable=True)[:, :beam]
            sentences = None
            if left <= len(places) * KEPT:
                sentences = going.nonzero().squeeze(1)
                places, order = places[sentences], order[sentences]
                values, words, origins = (x[sentences] for x in (values, words, origins))
                tokens, scores = tokens[sentences], scores[sentences]
            parents = origins.gather(1, order)
            tokens = _extended(tokens, parents, words.gather(1, order))
            scores = _extended(scores, parents, values.gather(1, order))
        return found.hypotheses()

    def _divisor(self, step: int) -> float:
        return float((step + 1) ** self.len_penalty) if self.normalize_scores else 1.0

    def _candidates(self, logits: Tensor, totals: Tensor, step: int, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The best continuations of a sentence's hypotheses, twice as many as the beam is wide, as half may end it.

        Args:
            logits: (n, B, V), overwritten.
            totals: scores of the hypotheses so far (B, n).
            step: tokens written before this one.
            last: the hypotheses must end here.

        Returns:
            Scores, best first, words, and which hypothesis each goes on from: (B, candidates).
        """
        if self.temperature != 1:
            logits.div_(self.temperature)
        logprobs = F.log_softmax(logits, dim=-1)
        if last:
            values, order = (logprobs[:, :, self.eos].t() + totals).sort(dim=1, descending=True)
            return values, torch.full_like(order, self.eos), order
        logprobs[:, :, self.pad] = -torch.inf
        if self.unk_penalty:
            logprobs[:, :, self.unk] -= self.unk_penalty
        if step < self.min_len:
            logprobs[:, :, self.eos] = -torch.inf
        return _best(logprobs, totals, 2 * self.beam_size)


class _Found:
    """The hypotheses that have ended: at most ``beam`` of each of ``count`` sentences, in the order they ended."""

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
        """Add candidates ``which`` (B, beam) that end their hypotheses, as far as there is room."""
        rank = self.count[places, None] + which.cumsum(dim=1) - 1
        row, column = (which & (rank < self.lengths.size(1))).nonzero(as_tuple=True)
        sentence, place = places[row], rank[row, column]
        origin, total = origins[row, column], values[row, column]
        length = tokens.size(2)
        self.lengths[sentence, place] = length
        self.scores[sentence, place] = total / divisor
        self.tokens[sentence, place, : length - 1] = tokens[row, origin, 1:]
        self.tokens[sentence, place, length - 1] = eos
        sums = F.pad(torch.cat([scores[row, origin], total[:, None]], dim=1), (1, 0))
        self.steps[sentence, place, :length] = sums.diff(dim=1)
        self.count[places] = (self.count[places] + which.sum(dim=1)).clamp(max=self.lengths.size(1))

    def hypotheses(self) -> list[list[Hypothesis]]:
        """As SequenceGenerator gives them: of each sentence, the best first."""
        if not bool(self.count.all()):
            raise UserError("the model gives some sentence no finite probability: there is no translation of it")
        scores, order = self.scores.sort(dim=1, descending=True, stable=True)
        lengths = self.lengths.gather(1, order)
        there = torch.arange(self.tokens.size(2), device=order.device) < lengths[:, :, None]
        tokens, steps = (x.gather(1, order[:, :, None].expand_as(x))[there] for x in (self.tokens, self.steps))
        each, nothing = lengths[lengths > 0].tolist(), torch.empty(0)
        of_all = zip(tokens.split(each), scores[lengths > 0].unbind(), steps.split(each), strict=True)
        return [
            [
                {
                    "tokens": written,
                    "score": score,
                    "attention": nothing,
                    "alignment": nothing,
                    "positional_scores": by_step,
                }
                for written, score, by_step in itertools.islice(of_all, count)
            ]
            for count in self.count.tolist()
        ]


def _extended(history: Tensor, parents: Tensor, newest: Tensor) -> Tensor:
    """Histories (B, n, T) followed to (B, m) of the hypotheses, and their newest entries (B, m): (B, m, T + 1)."""
    followed = history.gather(1, parents[:, :, None].expand(-1, -1, history.size(2)))
    return torch.cat([followed, newest[:, :, None]], dim=2)


def _best(logprobs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` greatest of all sums of logprobs (n, B, V) and totals (B, n), for each of the B sentences.

    ``topk`` goes slowly through long rows. The greatest values lie in the blocks that have the greatest maxima, so it
    first chooses blocks, and then looks into these alone.

    Returns:
        Sums, best first, places in V, and places in n: (B, count).
    """
    _, sentences, size = logprobs.shape
    blocks, rest = divmod(size, BLOCK)
    maxima = logprobs[:, :, : size - rest].unflatten(2, (blocks, BLOCK)).amax(dim=3)
    if rest:
        maxima = torch.cat([maxima, logprobs[:, :, size - rest :].amax(dim=2, keepdim=True)], dim=2)
    width = maxima.size(2)
    maxima = (maxima + totals.t()[:, :, None]).nan_to_num(nan=-torch.inf).transpose(0, 1).flatten(1)
    chosen = maxima.topk(min(count, maxima.size(1)), dim=1).indices
    row, first = chosen.div(width, rounding_mode="floor"), chosen % width * BLOCK
    within = first[:, :, None] + torch.arange(BLOCK, device=first.device)
    start = (row * sentences + torch.arange(sentences, device=row.device)[:, None]) * size
    values = logprobs.view(-1).take(start[:, :, None] + within.clamp(max=size - 1))
    values = (values + totals.gather(1, row)[:, :, None]).masked_fill(within >= size, -torch.inf)
    values, order = values.nan_to_num(nan=-torch.inf).flatten(1).topk(count, dim=1)
    return (
        values,
        within.clamp(max=size - 1).flatten(1).gather(1, order),
        row.gather(1, order.div(BLOCK, rounding_mode="floor")),
    )
