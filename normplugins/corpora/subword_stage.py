"""The stage from tokens to subwords: a joint model learnt on the training text, and every split cut by it, streamed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from normplugins.corpora import subwords
from normplugins.corpora.bitext import Pair
from normplugins.corpora.cleaning import Cleaner, add_counts
from normplugins.corpora.settings import CorpusConfig
from normplugins.corpora.stages import SPLITS, Echo
from normplugins.utils.append_only_log import Growing
from normplugins.utils.errors import UserError
from normplugins.utils.files import iter_lines, whole_file
from normplugins.utils.worker_processes import apart, chunked, map_ordered

CHUNK = 5000  # pairs that a worker takes at a time; the stage goes on from the last chunk after a kill


def write_pieces(config: CorpusConfig, texts: Path, to: Path, echo: Echo, workers: int | None) -> dict[str, Any]:
    """Write the model and every split of ``texts`` in subwords; return the facts.

    With ``length_in=subwords`` the training pairs are cleaned here.
    """
    languages = {"source": config.source, "target": config.target}
    cleaner = Cleaner(config)
    nothing = {
        split: {"read": 0, "pairs": 0, "dropped": {}, "subwords": dict.fromkeys(languages, 0)}
        | {"longest": dict.fromkeys(languages, 0)}
        for split in SPLITS
    }
    names = [f"{split}.{language}" for split in SPLITS for language in languages.values()]
    with Growing(to, names, nothing) as files:
        files.note()  # from here on a killed call's model is found again
        model = to / subwords.FILES[config.subword]
        if not model.exists() and config.codes is not None:
            echo(f"{config.name}: taking the subwords of {config.codes}")
            with whole_file(model) as temporary:
                temporary.write_bytes(Path(config.codes).expanduser().read_bytes())
        elif not model.exists():
            echo(f"{config.name}: learning {config.subword_size:,} joint {config.subword} subwords")
            paths = [texts / f"train.{language}" for language in languages.values()]
            kind, size, least = config.subword, config.subword_size, config.subword_min_count
            apart(lambda: subwords.learn(kind, size, least, paths, model))
        echo(f"{config.name}: splitting words into subwords")
        split_line = subwords.splitter(config.subword, model)
        for split in SPLITS:
            clean = split == "train" and config.length_in == "subwords"
            state = files.state[split]
            if files.resumed and split == "train":
                echo(f"{config.name}: going on after {state['read']:,} pairs")

            def cut(chunk: list[Pair], clean: bool = clean) -> dict[str, Any]:
                done = [(split_line(source), split_line(target)) for source, target in chunk]
                pairs, dropped = cleaner.clean(done) if clean else (done, {})
                lengths = [[len(pair[side].split()) for pair in pairs] for side in (0, 1)]
                return {"read": len(chunk), "pairs": pairs, "dropped": dropped, "lengths": lengths}

            lines = zip(*(iter_lines(texts / f"{split}.{language}") for language in languages.values()), strict=True)
            for done in map_ordered(cut, chunked(islice(lines, state["read"], None), CHUNK), workers):
                for number, (side, language) in enumerate(languages.items()):
                    lengths = done["lengths"][number]
                    files.write(f"{split}.{language}", (pair[number] for pair in done["pairs"]))
                    state["subwords"][side] += sum(lengths)
                    state["longest"][side] = max(state["longest"][side], *lengths, 0)
                add_counts(state["dropped"], done["dropped"])
                state["pairs"] += len(done["pairs"])
                state["read"] += done["read"]
                files.note()
        state = files.state
    notes = cleaner.notes(state["train"]["dropped"])
    if not state["train"]["pairs"]:
        raise UserError("; ".join(["no training pair is left", *notes]))
    learned = subwords.count_merges(model) if config.subword == "bpe" else config.subword_size
    counts = {f"{split}.{languages[side]}": state[split]["subwords"][side] for split in SPLITS for side in languages}
    return {
        "subword": {"model": model.name, "learned": learned, "subwords": counts},
        # as the model counts it: the end of the sentence is one more
        "longest": {split: {side: state[split]["longest"][side] + 1 for side in languages} for split in SPLITS},
        "pairs": {split: state[split]["pairs"] for split in SPLITS},
        "notes": notes,
    }
