"""The stage from tokens to subwords: learn a joint model on the training text, and split every line with it."""

from itertools import islice
from pathlib import Path
from typing import Any

from normplugins.corpora import subwords
from normplugins.corpora.base import SPLITS, Echo
from normplugins.corpora.bitext import Pair
from normplugins.corpora.parallel import ParallelCorpus
from normplugins.corpora.token_stage import add_counts
from normplugins.utils.append_only_log import AppendOnlyLog
from normplugins.utils.errors import UserError
from normplugins.utils.files import iter_lines, whole_file
from normplugins.utils.worker_processes import call_in_subprocess, chunked, map_ordered

CHUNK = 5000  # pairs per work item; after a kill the stage resumes at the last complete chunk


def write_subwords(corpus: ParallelCorpus, tokens: Path, to: Path, echo: Echo, workers: int | None) -> dict[str, Any]:
    """Write the model and every split of the folder ``tokens`` in subwords; return the facts.

    With ``length_in=subwords`` the training pairs are cleaned here.
    """
    languages = {"source": corpus.source, "target": corpus.target}
    zeros = dict.fromkeys(languages, 0)
    initial = {
        split: {"read": 0, "pairs": 0, "dropped": {}, "subwords": dict(zeros), "longest": dict(zeros)}
        for split in SPLITS
    }
    names = [f"{split}.{language}" for split in SPLITS for language in languages.values()]
    with AppendOnlyLog(to, names, initial) as log:
        log.commit()  # from here on, the next call finds the model of a killed one
        model = to / subwords.FILES[corpus.subword]
        if not model.exists():
            _make_model(corpus, tokens, model, echo)
        echo(f"{corpus.name}: splitting words into subwords")
        split_line = subwords.splitter(corpus.subword, model)
        for split in SPLITS:
            state = log.state[split]
            if log.resumed and split == "train":
                echo(f"{corpus.name}: going on after {state['read']:,} pairs")
            paths = [tokens / f"{split}.{language}" for language in languages.values()]
            pairs = islice(zip(*map(iter_lines, paths), strict=True), state["read"], None)
            clean = split == "train" and corpus.length_in == "subwords"

            def work(chunk: list[Pair], clean: bool = clean) -> tuple[int, list[Pair], dict[str, int], list[list[int]]]:
                done = [(split_line(source), split_line(target)) for source, target in chunk]
                kept, dropped = corpus.clean(done) if clean else (done, {})
                return len(chunk), kept, dropped, [[len(pair[side].split()) for pair in kept] for side in (0, 1)]

            for read, kept, dropped, lengths in map_ordered(work, chunked(pairs, CHUNK), workers):
                for number, (side, language) in enumerate(languages.items()):
                    log.write(f"{split}.{language}", (pair[number] for pair in kept))
                    state["subwords"][side] += sum(lengths[number])
                    state["longest"][side] = max(state["longest"][side], *lengths[number], 0)
                state["dropped"] = add_counts(state["dropped"], dropped)
                state["pairs"] += len(kept)
                state["read"] += read
                log.commit()
        state = log.state
    notes = corpus.cleaning_notes(state["train"]["dropped"])
    if not state["train"]["pairs"]:
        raise UserError("; ".join(["no training pair is left", *notes]))
    learned = subwords.count_merges(model) if corpus.subword == "bpe" else corpus.subword_size
    counts = {f"{split}.{languages[side]}": state[split]["subwords"][side] for split in SPLITS for side in languages}
    return {
        "subword": {"model": model.name, "learned": learned, "subwords": counts},
        # with the end of the sentence, as the model counts it
        "longest": {split: {side: state[split]["longest"][side] + 1 for side in languages} for split in SPLITS},
        "pairs": {split: state[split]["pairs"] for split in SPLITS},
        "notes": notes,
    }


def _make_model(corpus: ParallelCorpus, tokens: Path, model: Path, echo: Echo) -> None:
    if corpus.codes is not None:
        echo(f"{corpus.name}: taking the subwords of {corpus.codes}")
        with whole_file(model) as temporary:
            temporary.write_bytes(Path(corpus.codes).expanduser().read_bytes())
        return
    echo(f"{corpus.name}: learning {corpus.subword_size:,} joint {corpus.subword} subwords")
    paths = [tokens / f"train.{language}" for language in (corpus.source, corpus.target)]
    kind, size, min_count = corpus.subword, corpus.subword_size, corpus.subword_min_count
    call_in_subprocess(lambda: subwords.learn(kind, size, min_count, paths, model))
