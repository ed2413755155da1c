"""``normplugins run EXPERIMENT [KEY=VALUE ...]``: train a model, score it and record the result."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from normplugins.commands._arguments import add_overrides
from normplugins.runs.experiments import experiments, summary
from normplugins.utils.errors import UserError, run_each
from normplugins.utils.steps import loading
from normplugins.utils.terminal import definitions, say, terminal_width

if TYPE_CHECKING:
    from omegaconf import DictConfig

RESUMABLE = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "a corpus with its recipe, such as demo or iwslt14 (default: list all experiments)"
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help=text)
    text = "only print the config that these settings give, with the source and the meaning of each key"
    parser.add_argument("--cfg", action="store_true", help=text)
    text = "run every combination of settings that are given as lists, such as norm=ln,pn seed=1,2,3"
    parser.add_argument("-m", "--multirun", action="store_true", help=text)
    add_overrides(parser, "norm=pn, seed=2, or dry_run=true to see the size of the run first")


def execute(options: argparse.Namespace) -> int:
    """Carry out the runs one after another, or with ``hardware=slurm`` submit a Slurm job for each."""
    if options.experiment is None:
        show_experiments()
        return 0
    if options.cfg:
        with loading():
            from normplugins.runs.explain import show_config
        show_config(options.experiment, options.overrides)
        return 0
    with loading():
        from normplugins.runs.check import check
        from normplugins.runs.compose import compose_config, expand_sweep
        from normplugins.runs.dry_run import show_dry_run
        from normplugins.runs.run import run, run_title
        from normplugins.training.distributed import launched
        from normplugins.training.rendezvous import refuse

    if options.multirun and launched():
        raise UserError("run -m under torchrun or srun: launch one run at a time, without -m")
    # All configs are composed first, so that a typo in the last one is reported before any run starts.
    jobs = expand_sweep(options.overrides) if options.multirun else [options.overrides]
    try:
        configs = [compose_config(options.experiment, job) for job in jobs]
    except UserError as error:
        refuse(error)
        raise
    slurm = any(config.hardware.name == "slurm" and not config.dry_run for config in configs)
    if options.multirun or slurm:
        for config in configs:  # so that an invalid config is refused before the first run
            check(config)
    if slurm:
        from normplugins.runs.slurm import submit

        submit(options.experiment, jobs, configs)
        return 0

    def run_one(job: tuple[int, DictConfig]) -> None:
        number, config = job
        if options.multirun:
            print(f"== {number} of {len(configs)}: {run_title(config)}")
        show_dry_run(config) if config.dry_run else run(config)

    if failed := run_each(enumerate(configs, 1), run_one, raise_first=not options.multirun):
        raise UserError(f"{failed} of {len(configs)} runs failed")
    return 0


def show_experiments() -> None:
    """Print every experiment with the first sentence of its config file, and what to try next."""
    say("normplugins run EXPERIMENT [KEY=VALUE ...] trains, scores and records one of:\n")
    print(definitions({name: summary(name) for name in experiments()}, terminal_width()))
    say("\n--cfg shows all settings of an experiment, dry_run=true its size, and `normplugins norms` the norms.")
