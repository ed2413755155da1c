"""The project's own settings of a run: type, default, documentation, range, and whether they can change a result.

Hydra's nodes, the checks before a run and the names of cells are derived from these dataclasses. The settings of norms
are declared in ``normplugins/norms``, those of models in ``models/config.py`` and those of corpora in ``corpora``; all
other keys are fairseq's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import II, MISSING

from normplugins.utils.settings import setting


@dataclass
class TrainSettings:
    """The section ``train``."""

    checkpoint_minutes: float = setting(
        5.0, "minutes between checkpoints, the most work that a kill can lose", changes_result=False
    )
    batches_per_update: int | None = setting(
        None,
        "batches in an update, shared among all processes; null: optimization.update_freq batches of each process",
        minimum=1,
    )
    bucket_by_length: bool | None = setting(
        None,
        "batch sentences of similar length on both sides: IWSLT14 has 2.9 % padding instead of 6.0 %, and 316 batches "
        "an epoch instead of 343",
    )
    compile: bool = setting(False, "compile the layers with torch.compile, which draws other dropout masks")
    probe: bool | None = setting(
        None,
        "record statistics of the norms along training; null: unless compile or checkpoint_activations prevents it",
        changes_result=False,
    )


@dataclass
class HardwareSettings:
    """The section ``hardware``."""

    name: str = setting(MISSING, "name of the hardware config", changes_result=False)
    processes: int = setting(
        1, "processes on this machine: one per GPU, or any number on a CPU", minimum=1, changes_result=False
    )
    threads: int | None = setting(
        None,
        "CPU threads of each process; null: an equal share of the available cores",
        minimum=1,
        changes_result=False,
    )
    timeout_seconds: float = setting(
        300.0, "seconds that a process waits for the others before it ends the run", minimum=1, changes_result=False
    )


@dataclass
class SlurmSettings:
    """The section ``hardware.slurm``: what ``sbatch`` is asked for; null leaves the choice to Slurm."""

    partition: str | None = setting(None, "partition of the jobs", changes_result=False)
    account: str | None = setting(None, "account that is charged", changes_result=False)
    qos: str | None = setting(None, "quality of service", changes_result=False)
    constraint: str | None = setting(None, "features that a node needs", changes_result=False)
    time: str | None = setting("4:00:00", "limit after which a job is requeued and resumes", changes_result=False)
    gpus: int = setting(
        II("hardware.processes"), "GPUs on the node of each job, one for each process; 0: the CPU", changes_result=False
    )
    cpus: int = setting(2, "CPU cores of each job, shared by its processes", minimum=1, changes_result=False)
    mem: str | None = setting(None, "memory of each job, such as 16G", changes_result=False)
    parallel: int | None = setting(None, "most jobs that run at the same time", minimum=1, changes_result=False)
    setup: list[str] = field(default_factory=list)  # shell commands before the run, such as 'module load cuda'
    options: list[str] = field(default_factory=list)  # further options of sbatch, such as --mail-type=END


@dataclass
class SlurmHardwareSettings(HardwareSettings):
    """The section ``hardware`` with ``hardware=slurm``."""

    slurm: SlurmSettings = field(default_factory=SlurmSettings)


@dataclass
class TrackingSettings:
    """The section ``tracking``."""

    name: str = setting(MISSING, "name of the tracking config: none or wandb", changes_result=False)
    project: str | None = setting(None, "project of Weights & Biases", changes_result=False)
    entity: str | None = setting(None, "user or team of Weights & Biases; null: its own default", changes_result=False)


@dataclass
class TranslationEvaluateSettings:
    """The section ``evaluate`` of a translation experiment."""

    average: int | None = setting(
        5, "score the mean of the last N epochs' checkpoints; null: the checkpoint with the best loss", minimum=1
    )
    recalibrate: int | None = setting(
        None, "re-estimate the running statistics on N training batches before scoring (precise BN)", minimum=0
    )
    translate: bool = setting(True, "translate the test set; false: only the validation loss, no BLEU")
    split_compounds: bool = setting(False, "report BLEU with hyphenated words split, under its own name")
    beam: int = setting(5, "beam size", minimum=1)
    length_penalty: float = setting(1.0, "exponent of the length in a hypothesis's score")
    max_length_a: float = setting(0.0, "a translation has at most max_length_a * source length + max_length_b tokens")
    max_length_b: int = setting(200, "see max_length_a", minimum=0)
    max_tokens: int = setting(8192, "source tokens in a batch of translation", minimum=1, changes_result=False)


@dataclass
class LanguageModelEvaluateSettings:
    """The section ``evaluate`` of a language-modeling experiment."""

    average: int | None = setting(
        None, "score the mean of the last N epochs' checkpoints; null: the checkpoint with the best loss", minimum=1
    )
    recalibrate: int | None = setting(
        None, "re-estimate the running statistics on N training batches before scoring (precise BN)", minimum=0
    )
    segment: int | None = setting(None, "tokens in a window; null: as in training", minimum=1)
    context: int = setting(0, "the first N tokens of a window are context only, scored in the window before", minimum=0)
    batch_size: int = setting(32, "windows in a batch", minimum=1, changes_result=False)


@dataclass
class RunSettings:
    """The settings that every experiment has."""

    experiment: str = setting(MISSING, "name of the experiment, the first part of a run's folder")
    seed: int = setting(1, "seed of every random generator")
    variant: str = setting(MISSING, "name of the cell; it is derived from the norm and the overrides")
    data_dir: str = setting("data", "folder of the corpora", changes_result=False)
    results_dir: str = setting("results", "folder of the published records", changes_result=False)
    run_dir: str | None = setting(
        "runs/${experiment}/${variant}/seed${seed}", "folder of the run", changes_result=False
    )
    force: bool = setting(False, "delete the run's folder and start again", changes_result=False)
    dry_run: bool = setting(False, "print what the run would need, and do nothing", changes_result=False)
    train: TrainSettings = field(default_factory=TrainSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass
class TranslationSettings(RunSettings):
    """The settings of a translation experiment."""

    evaluate: TranslationEvaluateSettings = field(default_factory=TranslationEvaluateSettings)


@dataclass
class LanguageModelingSettings(RunSettings):
    """The settings of a language-modeling experiment."""

    evaluate: LanguageModelEvaluateSettings = field(default_factory=LanguageModelEvaluateSettings)
    pn_warmup_updates: int = setting(
        2000, "updates in which PN divides by the batch's quadratic mean; norm.warmup_updates follows it", minimum=0
    )


OF_TASK: dict[str, type[RunSettings]] = {
    "translation": TranslationSettings,
    "language_modeling": LanguageModelingSettings,
}
"""The settings of an experiment by its task, ``task._name``."""


def declared(settings: type) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the dataclass field of every setting, sections flattened."""
    for each in fields(settings):
        if "help" in each.metadata:
            yield each.name, each
        else:
            assert isinstance(each.default_factory, type)
            yield from ((f"{each.name}.{key}", inner) for key, inner in declared(each.default_factory))
