"""A provider in a process of its own: stock fairseq's memory and threads stay what they are without this project."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from normplugins.utils.errors import UserError

PRELOADED = ["normplugins.bench.step", "normplugins.bench.decode"]


class Apart:
    """A function that another process builds and calls; used as a context, it ends the process.

    Args:
        build: gives the function, there; it and its arguments are pickled.
        arguments: of ``build``.

    Raises:
        UserError: with what was raised there, or that the process is gone; when called too.
    """

    def __init__(self, build: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._here, there = context.Pipe()
        # plain bytes: multiprocessing would open a file for each tensor, and a model has hundreds
        terms = there, torch.get_num_threads(), pickle.dumps((build, arguments))
        self._process = context.Process(target=_serve, args=terms, daemon=True)
        self._process.start()
        there.close()
        self._answer()  # that it is built

    def __call__(self, *arguments: Any) -> Any:
        """Call the function there, and wait for what it returns."""
        self._here.send_bytes(pickle.dumps(arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            well, result = self._here.recv()
        except EOFError:
            raise UserError("the process of stock fairseq has ended; is there too little memory?") from None
        if not well:
            raise UserError(f"stock fairseq: {result}")
        return result

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._here.close()
        self._process.terminate()
        self._process.join()


def _serve(there: Connection, threads: int, pickled: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks hears it too, and ends this one
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    # fairseq's decoder hands PyTorch masks of two types; what PyTorch says of that belongs to no table
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
    torch.set_num_threads(threads)
    try:
        build, arguments = pickle.loads(pickled)
        function = build(*arguments)
        there.send((True, None))
        while True:
            there.send((True, function(*pickle.loads(there.recv_bytes()))))
    except EOFError:  # nobody asks any more
        return
    except Exception as error:
        there.send((False, f"{type(error).__name__}: {error}"))
