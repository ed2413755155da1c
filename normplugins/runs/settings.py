"""The project's own settings of a run: type, default, documentation, range, and whether they can change a result.

Hydra's nodes, the checks before a run and the names of cells are derived from these dataclasses. The settings of norms
are declared in ``normplugins/norms``, those of models in ``models/config.py`` and those of corpora in ``corpora``; all
other keys are fairseq's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

from omegaconf import II, MISSING

from normplugins.utils.settings import setting

neutral = partial(setting, changes_result=False)
"""Declares a setting that cannot change the result of a run."""


@dataclass
class TrainSettings:
    """The section ``train``."""

    checkpoint_minutes: float = neutral(
        5.0, "minutes between checkpoints; a killed run loses at most this much work", minimum=0
    )
    batches_per_update: int | None = setting(
        None, "batches per update of all processes; null: optimization.update_freq batches per process", minimum=1
    )
    bucket_by_length: bool | None = setting(
        None,
        "batch sentences whose lengths are similar on both sides; on IWSLT14, padding falls from 6.0 % to 2.9 %, and "
        "batches per epoch from 343 to 316",
    )
    compile: bool = setting(False, "compile the layers with torch.compile, which draws other dropout masks")
    probe: bool = neutral(
        True, "record statistics of the norms in training; off with compile and with model.checkpoint_activations"
    )


@dataclass
class HardwareSettings:
    """The section ``hardware``."""

    name: str = neutral(MISSING, "name of the hardware config")
    processes: int = neutral(1, "processes on this machine: one per GPU, or any number on a CPU", minimum=1)
    threads: int | None = neutral(None, "CPU threads of each process; null: an equal share of the cores", minimum=1)
    timeout_seconds: float = neutral(300.0, "seconds that processes wait for each other; then the run ends", minimum=1)


@dataclass
class SlurmSettings:
    """The section ``hardware.slurm``: the options of ``sbatch``; null leaves the choice to Slurm."""

    partition: str | None = neutral(None, "partition of the jobs")
    account: str | None = neutral(None, "account that is charged")
    qos: str | None = neutral(None, "quality of service")
    constraint: str | None = neutral(None, "features that a node needs")
    time: str | None = neutral("4:00:00", "limit after which a job is requeued and resumes")
    gpus: int = neutral(II("hardware.processes"), "GPUs of each job, one for each process; 0: use the CPU")
    cpus: int = neutral(2, "CPU cores of each job, shared by its processes", minimum=1)
    mem: str | None = neutral(None, "memory of each job, such as 16G")
    parallel: int | None = neutral(None, "maximum number of jobs that run at the same time", minimum=1)
    setup: list[str] = field(default_factory=list)  # shell commands before the run, such as 'module load cuda'
    options: list[str] = field(default_factory=list)  # further options of sbatch, such as --mail-type=END


@dataclass
class SlurmHardwareSettings(HardwareSettings):
    """The section ``hardware`` with ``hardware=slurm``."""

    slurm: SlurmSettings = field(default_factory=SlurmSettings)


@dataclass
class TrackingSettings:
    """The section ``tracking``."""

    name: str = neutral(MISSING, "name of the tracking config: none, tensorboard or wandb")
    project: str | None = neutral(None, "project of Weights & Biases")
    entity: str | None = neutral(None, "user or team of Weights & Biases; null: its own default")


@dataclass
class TranslationEvaluateSettings:
    """The section ``evaluate`` of a translation experiment."""

    average: int | None = setting(5, "score the mean of the last N epochs' checkpoints; null: the best one", minimum=1)
    recalibrate: int | None = setting(None, "re-estimate running statistics on N batches (precise BN)", minimum=1)
    translate: bool = setting(True, "translate the test set; false: only the validation loss, no BLEU")
    split_compounds: bool = setting(False, "report BLEU with hyphenated words split, under its own name")
    beam: int = setting(5, "beam size", minimum=1)
    length_penalty: float = setting(1.0, "exponent of the length in a hypothesis's score")
    max_length_a: float = setting(
        0.0,
        "a translation has at most max_length_a * length + max_length_b tokens, where length is the length of the "
        "longest source sentence in the batch, as in fairseq",
        minimum=0,
    )
    max_length_b: int = setting(200, "see max_length_a", minimum=0)
    max_tokens: int = neutral(8192, "maximum number of tokens on the longer side of a batch in translation", minimum=1)


@dataclass
class LanguageModelEvaluateSettings:
    """The section ``evaluate`` of a language-modeling experiment."""

    average: int | None = setting(
        None, "score the mean of the last N epochs' checkpoints; null: the best one", minimum=1
    )
    recalibrate: int | None = setting(None, "re-estimate running statistics on N batches (precise BN)", minimum=1)
    segment: int | None = setting(None, "tokens in a window; null: as in training", minimum=1)
    context: int = setting(
        0, "the first N tokens of a window are only context; the previous window has scored them", minimum=0
    )
    batch_size: int = neutral(32, "windows in a batch", minimum=1)


@dataclass
class RunSettings:
    """The settings that every experiment has."""

    experiment: str = setting(MISSING, "name of the experiment, the first part of a run's folder")
    seed: int = setting(1, "seed of every random generator", minimum=0, below=2**31)
    variant: str = setting(MISSING, "name of the cell; it is derived from the norm and the overrides")
    data_dir: str = neutral("data", "folder of the corpora")
    run_dir: str | None = neutral("runs/${experiment}/${variant}/seed${seed}", "folder of the run")
    precision: str = setting(
        "float32",
        "precision of matrix products and activations; weights, statistics, optimizer and loss are always in float32",
        choices=("float32", "bf16"),
    )
    force: bool = neutral(False, "delete the run's folder and start again")
    dry_run: bool = neutral(False, "print what the run would need, and do nothing")
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
        2000, "updates in which PN divides by the batch's quadratic mean; the default of norm.warmup_updates", minimum=0
    )


SETTINGS_BY_TASK: dict[str, type[RunSettings]] = {
    "translation": TranslationSettings,
    "language_modeling": LanguageModelingSettings,
}
"""The settings of an experiment by its task, ``task._name``."""


def declared(settings: type) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the dataclass field of every setting with documentation, also of those in sections."""
    for each in fields(settings):
        if "help" in each.metadata:
            yield each.name, each
        elif isinstance(each.type, type) and is_dataclass(each.type):
            yield from ((f"{each.name}.{key}", inner) for key, inner in declared(each.type))
