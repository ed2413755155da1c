"""What a process takes of the CPU: how many threads, and memory that it keeps for its next step."""

import ctypes
import platform

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def use_threads(count: int) -> None:
    """Let PyTorch use so many threads, and keep memory that it frees."""
    torch.set_num_threads(count)
    keep_memory()


def keep_memory() -> None:
    """Let this process keep memory that it frees.

    On its own glibc gives large blocks back to the system when they are freed and has them mapped anew, page by page,
    for the next layer: with 4 MB tensors a seventh of a training step. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # large blocks from the heap too,
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # whose end never goes back
