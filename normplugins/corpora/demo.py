"""A generated pair of languages with Zipf's word frequencies, varying lengths and local reordering, for CPU runs."""

import random
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from normplugins.corpora.base import SPLITS, register
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus
from normplugins.utils.settings import setting

NOUNS, VERBS, ADJECTIVES, ADVERBS = 260, 120, 90, 40
SHORTEST, LONGEST = 4, 30  # words in a source sentence
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@register
@dataclass
class Demo(ParallelCorpus):
    """Pairs in two generated languages; no source sentence occurs twice."""

    name: str = "demo"
    train_size: int = setting(10_000, "training pairs to generate", minimum=1)
    valid_size: int = setting(500, "validation pairs to generate", minimum=1)
    test_size: int = setting(500, "test pairs to generate", minimum=1)
    seed: int = setting(1, "seed of the generator")

    def read(self, files: Mapping[str, Path]) -> Bitext:  # noqa: ARG002
        """Generate the three splits."""
        language, seen = _Languages(self.seed), set[str]()
        splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
        for split, pairs in splits.items():
            while len(pairs) < getattr(self, f"{split}_size"):
                source, target = language.sentence()
                line = " ".join(source)
                if SHORTEST <= len(source) <= LONGEST and line not in seen:
                    seen.add(line)
                    pairs.append((line, " ".join(target)))
        where = {split: (f"demo {split} source", f"demo {split} target") for split in splits}
        return Bitext(splits["train"], splits["test"], where, splits["valid"])


class _Languages:
    """The words of both languages and the grammar that generates each sentence in both.

    Source: determiner adjective* noun, the verb second, then prepositional phrases and ``que`` clauses. Target:
    adjectives follow the noun and agree with its gender, an object particle depends on the gender, the negation
    encloses the verb, and the verb ends its clause. A third of the verbs have two translations, selected by the gender
    of the object. A few nouns have two translations selected at random, so no system reaches BLEU 100.
    """

    def __init__(self, seed: int) -> None:
        self.uniform = random.Random(seed).random  # the only method with the same values in every Python version
        taken: set[str] = set()
        word = self._new_word
        self.nouns = [(word(taken, 2), word(taken, 2), word(taken, 2)) for _ in range(NOUNS)]
        self.verbs = [(word(taken, 2), word(taken, 2), word(taken, 2)) for _ in range(VERBS)]
        self.adjectives = [(word(taken, 2), word(taken, 2)) for _ in range(ADJECTIVES)]
        self.adverbs = [(word(taken, 3), word(taken, 3)) for _ in range(ADVERBS)]
        self.prepositions = [(word(taken, 1), word(taken, 1)) for _ in range(6)]
        # Zipf's law: the k-th word has a weight of 1 / (k + 2)
        self.weights = {
            n: list(accumulate(1 / (k + 2) for k in range(n))) for n in (NOUNS, VERBS, ADJECTIVES, ADVERBS, 6)
        }

    def _new_word(self, taken: set[str], syllables: int) -> str:
        while True:
            word = "".join(self._any(_CONSONANTS) + self._any(_VOWELS) for _ in range(syllables)) + self._any("nrst ")
            if (word := word.strip()) not in taken:
                taken.add(word)
                return word

    def _any(self, letters: str) -> str:
        return letters[int(self.uniform() * len(letters))]

    def _zipf(self, n: int) -> int:
        weights = self.weights[n]
        return bisect(weights, self.uniform() * weights[-1])

    def _chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def _phrase(self) -> tuple[list[str], list[str], int]:
        """Return a noun phrase in both languages and the gender of its noun: 0, 1 or 2."""
        index = self._zipf(NOUNS)
        source_noun, target_noun, synonym = self.nouns[index]
        gender, plural, definite = index % 3, self._chance(0.3), self._chance(0.6)
        if index % 11 == 0 and self._chance(0.5):
            target_noun = synonym
        source, target = ["the" if definite else "a"], [("lo", "la", "le")[gender]] if definite else []
        agreeing: list[str] = []
        while self._chance(0.35) and len(agreeing) < 2:
            adjective, translated = self.adjectives[self._zipf(ADJECTIVES)]
            source.append(adjective)
            agreeing.insert(0, translated + ("o", "a", "e")[gender] + ("s" if plural else ""))
        source.append(source_noun + ("en" if plural else ""))
        target += [target_noun + ("im" if plural else ""), *agreeing]
        return source, target, gender

    def _clause(self, depth: int = 0) -> tuple[list[str], list[str]]:
        subject, translated_subject, _ = self._phrase()
        thing, translated_thing, gender = self._phrase()
        index = self._zipf(VERBS)
        verb, translated_verb, other_verb = self.verbs[index]
        if index % 3 == 0 and gender == 1:
            translated_verb = other_verb
        source, target = [*subject, verb], list(translated_subject)
        verb_group = [translated_verb]
        if self._chance(0.15):
            source.append("not")
            verb_group = ["ne", translated_verb, "pa"]
        source += thing
        target += [*translated_thing, ("ko", "ka", "ki")[gender]]
        if self._chance(0.4):
            preposition, postposition = self.prepositions[self._zipf(6)]
            place, translated_place, _ = self._phrase()
            source += [preposition, *place]
            target = [*translated_place, postposition, *target]
        if self._chance(0.3):
            adverb, translated_adverb = self.adverbs[self._zipf(ADVERBS)]
            source = [adverb, *source]
            verb_group = [translated_adverb, *verb_group]
        target += verb_group
        if depth < 2 and self._chance(0.25):
            inner, translated_inner = self._clause(depth + 1)
            source += ["que", *inner]
            target += ["ke", *translated_inner]
        return source, target

    def sentence(self) -> tuple[list[str], list[str]]:
        """Return one sentence in both languages, with a full stop or question mark."""
        source, target = self._clause()
        if self._chance(0.15):
            return [*source, "?"], ["su", *target, "?"]
        return [*source, "."], [*target, "."]
