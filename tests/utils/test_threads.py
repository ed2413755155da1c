"""A process that uses its threads keeps the memory that its tensors free, until it is returned."""

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


RESIDENT = """
import re
import torch
from normplugins.utils.threads import return_memory, use_threads

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

use_threads(1)
before = resident()
torch.empty(50_000_000).fill_(1.0)
kept = resident()
return_memory()
print(before, kept, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_the_memory_of_freed_tensors_can_be_returned() -> None:
    done = subprocess.run([sys.executable, "-c", RESIDENT], stdout=subprocess.PIPE, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept - before > 190_000, "200 MB are kept"
    assert after - before < 20_000
