"""What a run would be: its parameters, updates, time and memory, before anything is fetched, trained or written."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import fill

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from normplugins.evaluation.tasks import kind_of
from normplugins.runs.check import check
from normplugins.runs.compose import fairseq_config
from normplugins.runs.corpus_size import Size, corpus_size
from normplugins.runs.measured_step import Step, made_up, measure
from normplugins.runs.run import set_threads, titled
from normplugins.training.distributed import on_cpu
from normplugins.training.update_size import world_size

WIDTH = 110  # columns, where the output is no terminal


@dataclass(frozen=True)
class Plan:
    """A run before it is one: ``step`` is measured, everything else follows from the config and the corpus's size.

    ``batch_tokens``: what a batch may hold. ``batches``: of a process in an update. ``per_epoch``: updates of an epoch,
    were all its batches full; None where the corpus's size is not known. ``earliest`` and ``latest``: the updates after
    which the run can end; None where that is open.
    """

    size: Size
    step: Step
    device: str
    processes: int
    batch_tokens: int
    batches: int
    per_epoch: int | None
    earliest: int | None
    latest: int | None

    @property
    def tokens_per_update(self) -> int:
        """What an update may hold, all processes together."""
        return self.batch_tokens * self.batches * self.processes

    @property
    def update_seconds(self) -> float:
        """An update on this machine, one process alone."""
        return self.step.seconds(self.batches)


def make_plan(config: DictConfig) -> Plan:
    """Work out what a run would be, and measure a step of it.

    Raises:
        UserError: the run would be refused.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    check(config)
    set_threads(config)
    size = corpus_size(config)
    threads = torch.get_num_threads()
    sentences = config.dataset.batch_size or math.inf
    batch_tokens = int(min(config.dataset.max_tokens or math.inf, sentences * size.length))
    batches, processes = int(config.optimization.update_freq[0]), world_size(config)
    per_epoch = math.ceil(size.tokens / (batch_tokens * batches * processes)) if size.tokens else None
    earliest, latest = ends(config, per_epoch)
    return Plan(
        size=size,
        step=_measured(config, size, batch_tokens),
        device=f"CPU, {threads} thread{'s'[: threads > 1]}" if on_cpu(config) else torch.cuda.get_device_name(),
        processes=processes,
        batch_tokens=batch_tokens,
        batches=batches,
        per_epoch=per_epoch,
        earliest=earliest,
        latest=latest,
    )


def show_plan(config: DictConfig) -> None:
    """Print what a run would be; raises UserError where it would be refused."""
    plan = make_plan(config)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in describe(config, plan):
        table.add_row(f"  {name}", text)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    print(f"{titled(config)}: a plan. Nothing is fetched, trained or written.\n")
    console.print(table)
    for note in notes(config, plan):
        print(fill(note, console.width, initial_indent="\n  ", subsequent_indent="  ").rstrip())


def describe(config: DictConfig, plan: Plan) -> Iterator[tuple[str, str]]:
    """The lines of a plan: each a name, and what is known of it."""
    size, step = plan.size, plan.step
    yield "parameters", f"{step.parameters:,}"
    yield "dictionary", f"{size.types:,} types ({size.types_from})"
    pieces = "segments" if size.in_segments else "sentences"
    if size.sentences and size.tokens:
        counts = f"{size.sentences:,} {pieces} of {size.length} tokens{'' if size.in_segments else ' on average'}"
        yield "training text", f"{size.tokens:,} tokens, {counts} ({size.text_from})"
    else:
        yield "training text", f"not known ({size.text_from})"
    count = plan.batches * plan.processes
    share = f", {plan.batches} in each of {plan.processes} processes" if plan.processes > 1 else ""
    yield (
        "an update",
        f"{plan.tokens_per_update:,} tokens at most: {count} batch{'es' if count > 1 else ''} of "
        f"{plan.batch_tokens:,}{share}",
    )
    if plan.per_epoch:
        padding = "" if size.in_segments else " or more: padding takes a part of each batch"
        yield "an epoch", f"{plan.per_epoch:,} updates{padding}"
    warmup = config.lr_scheduler.get("warmup_updates", 0)
    if warmup and plan.per_epoch:
        yield "warmup", f"{warmup:,} updates of rising learning rate, into epoch {math.ceil(warmup / plan.per_epoch)}"
    yield "the end", _end_text(config, plan)
    yield (
        "measured",
        f"forward and backward of {step.tokens:,} tokens: {human(step.measured_seconds)}, the optimizer: "
        f"{human(step.update_seconds)} ({plan.device})",
    )
    speed = plan.batches * step.full_tokens / plan.update_seconds
    yield "time of an update", f"{human(plan.update_seconds)}, {speed:,.0f} tokens/s in a process"
    if plan.per_epoch:
        yield "of an epoch", human(plan.per_epoch * plan.update_seconds)
    if plan.earliest:
        open_end = "" if plan.earliest == plan.latest else " at the earliest"
        yield "to the end", f"{human(plan.earliest * plan.update_seconds)}{open_end}"
    memory = step.memory
    parts = {"parameters": memory.parameters, "gradients": memory.gradients, "optimizer": memory.optimizer}
    kept = sorted(memory.activations.items(), key=lambda item: -item[1])
    parts["activations"] = kept[0][1]
    text = ", ".join(f"{name} {size_of(held)}" for name, held in parts.items())
    total = f"{size_of(memory.total)}" if memory.peak is None else f"{size_of(memory.peak)} measured; counted"
    yield f"memory of a {_device(config)}", f"{total}: {text}"
    if len(kept) > 1:
        text = ", ".join(f"{size_of(held)} with {length} tokens a sentence" for length, held in kept)
        yield "activations", text


def notes(config: DictConfig, plan: Plan) -> Iterator[str]:
    """What has to be known to read the figures."""
    how = "as busy as it is now, on random batches, as large as seconds allow, extended to full ones by a straight line"
    text = f"Time is measured on this machine, {how}. Of other hardware it says nothing: ask for the plan there."
    if config.hardware.name.startswith("gpu") and on_cpu(config):
        text = f"There is no GPU here: time is measured on this machine's CPU, {how}. It says nothing of a GPU."
    if plan.processes > 1:
        text += " Communication between processes is not in it."
    yield text
    if plan.step.memory.peak is None:
        text = "Memory is counted: what autograd keeps for a full batch, with the model, its gradients and the "
        text += "optimizer's state. What the backward pass needs for moments and what libraries take come on top"
        if plan.processes > 1:
            text += ", as do the gradients once more, on their way between processes"
        if config.model.checkpoint_activations:
            text += ", as do the inputs of layers that are computed again"
        yield f"{text}."


def human(seconds: float) -> str:
    """A time for people: ``0.42 s``, ``14 min``, ``3.5 h``, ``12 days``."""
    for unit, length, end in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < end:
            value = seconds / length
            return (
                f"{value:.2f} {unit}" if value < 1 else f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
            )
    return f"{seconds / 86400:,.0f} days"


def size_of(count: int) -> str:
    """Bytes for people: ``1.68 GB``, ``12.5 MB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _device(config: DictConfig) -> str:
    return "GPU" if not on_cpu(config) or config.hardware.name.startswith("gpu") else "process"


def _measured(config: DictConfig, size: Size, batch_tokens: int) -> Step:
    """Train the run's model for some seconds on random batches, with a dictionary as large as the corpus's."""
    kind, settings = kind_of(config.task._name), fairseq_config(config)
    task, batch = made_up(kind, settings, size.types)
    return measure(settings, task, batch, batch_tokens, min(size.length, batch_tokens), min(size.longest, batch_tokens))


def ends(config: DictConfig, per_epoch: int | None) -> tuple[int | None, int | None]:
    """The first and the last update after which a run can end, as far as they are known."""
    limits = [config.optimization.max_update] if config.optimization.max_update else []
    if config.optimization.max_epoch and per_epoch:
        limits.append(config.optimization.max_epoch * per_epoch)
    latest = min(limits, default=None)
    if config.checkpoint.patience <= 0:
        return latest, latest
    by_patience = [(config.checkpoint.patience + 1) * per_epoch] if per_epoch else []  # the first epoch is the best yet
    return min([*limits, *by_patience], default=None), latest


def _end_text(config: DictConfig, plan: Plan) -> str:
    if plan.earliest == plan.latest and plan.latest:
        return f"update {plan.latest:,}"
    parts = [f"after {config.checkpoint.patience} epochs without a better validation loss"]
    if plan.earliest:
        parts.append(f"update {plan.earliest:,} at the earliest")
    if plan.latest:
        parts.append(f"update {plan.latest:,} at the latest")
    return ", ".join(parts)
