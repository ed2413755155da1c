"""The translators of the decoding benchmark: a model with its beam search, and other engines with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import DictConfig, OmegaConf

import normplugins
from normplugins.evaluation.tasks import run_task
from normplugins.export import ENGINES, QUANTIZATIONS
from normplugins.export.engines import module_of
from normplugins.runs.trained import Engine
from normplugins.training.distributed import on_cpu

Translate = Callable[..., list[list[int]]]
"""Maps settings (fields of fairseq's ``generation``) and batches to the tokens of each sentence's best hypothesis."""


def translator(model: Any, config: DictConfig, dictionary: Dictionary, bfloat16: bool = False) -> Translate:
    """Return the beam search of our model or stock fairseq's; ``bfloat16`` computes matrix products in bfloat16."""
    normplugins.register()
    task = run_task("translation").bare_task(config.task, dictionary)

    def translate(settings: dict[str, Any], batches: Sequence[dict[str, Any]]) -> list[list[int]]:
        generator = task.build_generator([model], GenerationConfig(**settings))
        found = []
        device = "cpu" if on_cpu(config) else "cuda"
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            for batch in batches:
                sample = batch if device == "cpu" else utils.move_to_cuda(batch)
                found += task.inference_step(generator, [model], sample)
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    return translate


def engines(model: Any, task: Any, folder: Path) -> dict[str, Translate]:
    """Export a model to ``folder`` for each installed engine and each type that the processor computes in."""
    found = {}
    for engine, packages in ENGINES.items():
        if not all(map(find_spec, packages)):
            print(f"{engine} is not installed and is left out")
            continue
        module = module_of(engine)
        for kind in QUANTIZATIONS[engine]:
            place = folder / f"{engine}-{kind}"
            place.mkdir()
            module.write(model, task, place, kind)
            translates = module.Engine(place, kind, model, task)
            if translates.computes_in.startswith(kind):
                found[f"{engine} {kind}"] = _engine_translator(translates, task.source_dictionary.pad())
            else:
                print(f"{engine} does not compute in {kind} on this processor: left out")
    return found


def _engine_translator(engine: Engine, pad: int) -> Translate:
    def translate(settings: dict[str, Any], batches: Sequence[dict[str, Any]]) -> list[list[int]]:
        search = {"beam": settings["beam"], "length_penalty": settings["lenpen"]}
        search |= {"max_length_a": settings["max_len_a"], "max_length_b": settings["max_len_b"]}
        found = []
        for batch in batches:
            sources = batch["net_input"]["src_tokens"]
            whole = OmegaConf.create(search | {"max_tokens": sources.numel()})
            found += engine([source[source.ne(pad)] for source in sources], whole)
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    return translate
