"""fairseq's interface for PyTorch Hub around a trained run, which prepares text as the run's corpus was prepared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from fairseq.dataclass.configs import FairseqConfig
from fairseq.hub_utils import GeneratorHubInterface
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:  # it imports this module
    from normplugins.runs.trained import TrainedRun


def hub_interface(run: TrainedRun) -> GeneratorHubInterface:
    """Return the interface, with the run's model on its device."""
    hub, text = GeneratorHubInterface(_config(run), run.task, [run.model]), run.pipeline
    hub.tokenizer = SimpleNamespace(encode=text.tokenize, decode=lambda line: text.to_text([line])[0])
    hub.bpe = SimpleNamespace(encode=lambda line: " ".join(text.split(line)), decode=text.join)
    return hub.to(next(run.model.parameters()).device)


def _config(run: TrainedRun) -> DictConfig:
    """Return fairseq's whole config: its defaults, and the run's task, search and batch size."""
    config = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(config, False)
    search = run.config.evaluate
    config.dataset.max_tokens = search.get("max_tokens", run.config.dataset.max_tokens)
    if run.translates:
        config.generation.lenpen = search.length_penalty
        config.generation.max_len_a, config.generation.max_len_b = search.max_length_a, search.max_length_b
    config.task = run.task.cfg
    return config
