"""Work that the fork server does once for all its processes: imports, and reading the configs of both tasks."""

from importlib import import_module

from normplugins.runs.check import check
from normplugins.runs.compose import compose_config

# torch._dynamo: imported by DistributedDataParallel and by PyTorch's optimizers
for module in (
    "normplugins.runs.run",
    "sacrebleu.metrics",
    "subword_nmt.apply_bpe",
    "torch._dynamo",
):
    import_module(module)
for experiment in ("demo", "ptb"):
    for norm in ("ln", "bn", "pn"):
        check(compose_config(experiment, [f"norm={norm}", "hardware=cpu"]))  # hardware=auto would ask CUDA
