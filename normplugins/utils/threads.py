"""CPU threads and memory of this process."""

import ctypes
import platform
from functools import cache

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def use_threads(count: int) -> None:
    """Set the number of PyTorch threads, and keep freed memory in the process."""
    torch.set_num_threads(count)
    keep_memory()


def keep_memory() -> None:
    """Make glibc's malloc keep freed memory; other C libraries are not changed.

    By default glibc returns large blocks to the system and maps them again, page by page, for the next layer. With
    tensors of 4 MB this costs a seventh of a training step.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_MAX, 0)  # allocate large blocks on the heap too
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never return the end of the heap


def return_memory() -> None:
    """Return freed memory to the system, which glibc keeps after :func:`keep_memory`.

    Large tensors of different sizes split the memory that is kept, so that it grows: without this call, by gigabytes an
    hour in a language model whose logits are the largest tensors. Using a returned gigabyte again takes up to a second.
    """
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
