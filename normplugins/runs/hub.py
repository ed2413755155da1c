"""fairseq's interface for PyTorch Hub around a trained run, which prepares text as the run's corpus was prepared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairseq.dataclass.configs import FairseqConfig
from fairseq.hub_utils import GeneratorHubInterface
from omegaconf import DictConfig, OmegaConf

from normplugins.corpora.raw_text import TextPipeline

if TYPE_CHECKING:  # it imports this module
    from normplugins.runs.trained import TrainedRun


def hub_interface(run: TrainedRun) -> GeneratorHubInterface:
    """Return the interface, with the run's model on its device."""
    hub = GeneratorHubInterface(_config(run), run.task, [run.model])
    hub.tokenizer, hub.bpe = _Tokenizer(run.pipeline), _Subwords(run.pipeline)
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


class _Tokenizer:
    def __init__(self, pipeline: TextPipeline) -> None:
        self.encode = pipeline.tokenize
        self.decode = lambda line: pipeline.to_text([line])[0]


class _Subwords:
    def __init__(self, pipeline: TextPipeline) -> None:
        self.encode = lambda line: " ".join(pipeline.split(line))
        self.decode = pipeline.join
