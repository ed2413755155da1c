"""Stock fairseq as the baseline: its model and trainer, in a process that this project's settings do not change."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, BaseFairseqModel
from fairseq.trainer import Trainer
from omegaconf import DictConfig, open_dict

from normplugins.models.import_checkpoint import convert_settings, convert_weights, stock_names
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError

ARCHITECTURE = "transformer_iwslt_de_en"
SIDES = ("embed_dim", "ffn_embed_dim", "attention_heads", "layers")
SAME = (  # settings that our model and stock fairseq's have under the same names
    *(f"{side}_{name}" for side in ("encoder", "decoder") for name in SIDES),
    *("dropout", "attention_dropout", "activation_dropout"),
    *("share_all_embeddings", "share_decoder_input_output_embed", "max_source_positions", "max_target_positions"),
)
Function = Callable[..., Any]
_function: Function | None = None  # in the separate process


@contextmanager
def stock_function(cpu: bool, build: Callable[..., Function], *arguments: Any) -> Iterator[Function]:
    """Yield the function that ``build(*arguments)`` returns; on a CPU it is built and called in a separate process.

    A process of this project keeps the memory that it frees; stock fairseq would gain from that, so on a CPU it runs
    in a process that has never applied the setting. There, ``build`` and all arguments are pickled.

    Raises:
        UserError: in the separate process, ``build`` or the function has raised an error, or the process has ended.
    """
    if not cpu:
        yield build(*arguments)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, context, _start, (torch.get_num_threads(),)) as executor:

        def submit(work: Callable[[bytes], Any], given: Any) -> Any:
            try:  # as plain bytes: multiprocessing would open a file for each tensor, and a model has hundreds
                return executor.submit(work, pickle.dumps(given)).result()
            except BrokenProcessPool:
                raise UserError("the process of stock fairseq has ended; is there too little memory?") from None
            except Exception as error:
                raise UserError(f"stock fairseq: {type(error).__name__}: {error}") from error

        submit(_build, (build, arguments))
        yield lambda *given: submit(_call, given)


def _start(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it, and ends this one
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)  # of fairseq's decoder
    torch.set_num_threads(threads)


def _build(given: bytes) -> None:
    global _function
    build, arguments = pickle.loads(given)
    _function = build(*arguments)


def _call(given: bytes) -> Any:
    assert _function is not None
    return _function(*pickle.loads(given))


def stock_model(config: DictConfig, task: Any) -> BaseFairseqModel:
    """Return stock fairseq's transformer with LayerNorm and the sizes of an experiment."""
    return task.build_model(_model_arguments(config.model))


def from_stock(stock: BaseFairseqModel) -> NormTransformer:
    """Build a norm_transformer with LayerNorm and copies of the weights of stock fairseq's transformer.

    It computes the same function except for dropout, whose masks differ.

    Raises:
        UserError: the model uses a feature that norm_transformer does not have.
    """
    task = Namespace(source_dictionary=stock.encoder.dictionary, target_dictionary=stock.decoder.dictionary)
    model = NormTransformer.build_model(convert_settings(stock.cfg, "the stock model"), task)
    model.load_state_dict(convert_weights(stock.state_dict(), model, "the stock model"))
    return model


def to_stock(model: NormTransformer, stock: BaseFairseqModel) -> BaseFairseqModel:
    """Copy the weights of a norm_transformer with LayerNorm into stock fairseq's model of the same sizes; return it."""
    state = stock.state_dict()
    for name, value in model.state_dict().items():
        parts = stock_names(name)
        state |= {part: each.view_as(state[part]) for part, each in zip(parts, value.chunk(len(parts)), strict=True)}
    stock.load_state_dict(state)
    return stock


def stock_trainer(config: DictConfig, task: Any) -> Trainer:
    """Return fairseq's own trainer with its own model, Adam and label-smoothed cross-entropy; all else is the same.

    Args:
        config: fairseq's part of a translation experiment's config; ``model.normalize_before`` chooses pre-norm.
        task: the translation task that our model trains on.
    """
    stock, adam = config.copy(), ("adam_betas", "adam_eps", "weight_decay")
    with open_dict(stock):  # fairseq adds its defaults to both components
        stock.model = vars(_model_arguments(config.model))
        stock.criterion = {
            "_name": "label_smoothed_cross_entropy",
            "label_smoothing": config.criterion.label_smoothing,
        }
        stock.optimizer = {"_name": "adam", **{key: config.optimizer[key] for key in adam}}
    return Trainer(stock, task, stock_model(config, task), task.build_criterion(stock.criterion))


def _model_arguments(model: DictConfig) -> Namespace:
    """Return the arguments of fairseq's model: the experiment's settings, with the architecture's as defaults."""
    given = {name: model[name] for name in SAME if model.get(name) is not None}
    before = {f"{side}_normalize_before": model.normalize_before for side in ("encoder", "decoder")}
    arguments = Namespace(arch=ARCHITECTURE, **given, **before)
    ARCH_CONFIG_REGISTRY[ARCHITECTURE](arguments)
    return arguments
