"""A process that uses its threads keeps the memory that its tensors free."""

import subprocess
import sys

import pytest

PAGES = """
import resource, sys
import torch
from normplugins.utils.threads import use_threads

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(12_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
given_back = pages()
use_threads(1)
pages()
print(torch.get_num_threads(), given_back, pages())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_tensor_finds_the_memory_of_the_one_before() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES], stdout=subprocess.PIPE, text=True, check=True)
    threads, given_back, kept = map(int, done.stdout.split())
    assert threads == 1
    assert kept < given_back / 10
