"""What the processor of this machine is called."""

from pathlib import Path

import pytest

from normplugins.utils.processor import first_core, processor_name


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux describes the processor in a file")
def test_the_name_tells_generations_of_a_processor_apart() -> None:
    about = first_core()
    assert about["processor"] == "0"
    assert about.get("model name", "") in processor_name()
    assert about.get("cpu family", "") in processor_name()
