"""The keys of fairseq's trainer and tasks that a run supports, and the reasons why it refuses all others."""

import re
from functools import cache
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf

from normplugins.models.check import MODELS
from normplugins.utils.errors import UserError

# The sections of fairseq's config that its trainer reads; the components (model, task, ...) are config groups.
FAIRSEQ_SECTIONS = ("common", "distributed_training", "dataset", "optimization", "checkpoint", "bmuf", "ema")
DDP_BACKENDS = ("pytorch_ddp", "c10d", "legacy_ddp", "no_c10d")
SUPPORTED = {
    "common": "log_interval seed cpu empty_cache_freq all_gather_list_size",
    "distributed_training": "distributed_world_size ddp_backend bucket_cap_mb find_unused_parameters",
    "dataset": "num_workers max_tokens batch_size required_batch_size_multiple required_seq_len_multiple "
    "data_buffer_size max_tokens_valid batch_size_valid curriculum",
    "optimization": "max_epoch max_update clip_norm update_freq lr stop_min_lr",
    "checkpoint": "patience",
    "translation": "left_pad_source max_source_positions max_target_positions",
    "language_modeling": "tokens_per_sample",
}
"""The keys that may be set, by section; the keys of a task are listed under the task's name."""
COMPONENTS = {
    "criterion": ("adaptive_loss", "cross_entropy", "label_smoothed_cross_entropy", "label_smoothed_nll"),
    "optimizer": ("adam", "fused_adam"),
    "lr_scheduler": ("cosine", "fixed", "inverse_sqrt", "step"),
    "model": tuple(MODELS),
}
"""The components that a run supports, by config group."""
REASONS = {
    r"task\.(data|seed|batch_size\w*|data_buffer_size|(source|target)_lang|train_subset|dataset_impl"
    r"|required_seq_len_multiple)|checkpoint\.save_dir|bmuf\.distributed_world_size"
    r"|distributed_training\.tpu": "it follows from another setting; set that setting instead",
    r"common\.((amp|bf16|fp16|memory_efficient)\w*|\w+_loss_scale|on_cpu_convert_precision)"
    r"|distributed_training\.\w*fp16": "the precision of a run is float32, or bfloat16 with precision=bf16",
    r"\w+\.\w*(tpu|plasma|quantization|parallel|pipeline|batch_buckets|pad_to_fixed|offload|sharded|fsdp)\w*": (
        "a run does not support it"
    ),
    r"dataset\.grouped_shuffling": (
        "its order depends on the number of processes, and it leaves out the longest batches of an epoch"
    ),
    r"optimization\.skip_remainder_batch": "every batch is trained on; fairseq drops a different batch after a resume",
    r"(distributed_training|bmuf)\.\w+|optimization\.use_bmuf": (
        "processes are connected by hardware.processes or torchrun, and use PyTorch's DistributedDataParallel"
    ),
    r"dataset\.((train|valid|combine_valid)_subsets?|dataset_impl|skip_invalid\w+|update_ordered\w+)"
    r"|task\.(load_alignments|left_pad_target|truncate_source|output_dictionary_size|shorten_\w+)": (
        "a run trains on the whole prepared training set, validates on the validation set, and skips no line"
    ),
    r"checkpoint\.(reset|optimizer|no_save_optimizer|checkpoint_suffix|load|write)\w*": (
        "a run resumes exactly from its own checkpoints"
    ),
    r"task\.eval_\w+": "the test set is scored after training, with the settings of the section evaluate",
    r"ema\.\w+": "a moving average of the weights is not supported; evaluate.average=N scores the mean of N epochs",
    r"task\.(sample_break_mode|\w+_target|add_bos_token|max_target_positions)": (
        "each token is predicted from the text before it, in segments of task.tokens_per_sample"
    ),
    r"optimization\.sentence_avg": (
        "losses are means over words; means over sentences could not be compared with them"
    ),
    r".*": "it has no effect here: only fairseq's own command line reads it",
}
"""The reasons why a run refuses unsupported keys, by pattern; the first pattern that matches the key applies."""
FOLLOWS = {
    "common.seed": "seed",
    "optimizer.lr": "optimization.lr",
    "lr_scheduler.lr": "optimization.lr",
    "criterion.sentence_avg": "optimization.sentence_avg",
}
"""Keys that always have the value of another key."""


def fairseq_defaults() -> DictConfig:
    """Return the sections of fairseq's config that its trainer reads, with fairseq's defaults."""
    defaults = FairseqConfig()
    return OmegaConf.create({section: getattr(defaults, section) for section in FAIRSEQ_SECTIONS})


def check_component(group: str, name: str) -> None:
    """Raise UserError if the config group of a component has an option that no run supports."""
    if name not in COMPONENTS[group]:
        raise UserError(f"{group}={name}: a run does not support it. Known: {', '.join(COMPONENTS[group])}")


def check_fairseq_keys(config: DictConfig) -> None:
    """Raise UserError, with the reason, for a component or a key of fairseq with a value that no run supports.

    Refused are a key that contradicts the setting it follows from, an unknown ``ddp_backend``, and any other
    unsupported key that is not at its default.
    """
    for group in COMPONENTS:
        check_component(group, config[group]._name)
    for key, source in FOLLOWS.items():
        value, needed = OmegaConf.select(config, key), OmegaConf.select(config, source)
        if value is not None and value != needed:
            raise UserError(f"{key}={value}: it follows from {source}={needed}; set {source} instead")
    task = str(config.task._name)
    defaults = _plain_defaults(task)
    given: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(defaults)), resolve=True, enum_to_str=True)
    if (backend := given["distributed_training"]["ddp_backend"]) not in DDP_BACKENDS:
        raise UserError(f"distributed_training.ddp_backend={backend}: unknown. Known: {', '.join(DDP_BACKENDS)}")
    for section, values in defaults.items():
        supported = SUPPORTED.get(task if section == "task" else section, "").split()
        for key, default in values.items():
            if key.startswith("_") or key in supported or key not in given[section]:
                continue
            if key in ("source_lang", "target_lang"):
                default = config.corpus[key.removesuffix("_lang")]
            elif follows := re.fullmatch(r"\$\{(\w+)\.(\w+)\}", str(default)):  # the default is another key's value
                default = given[follows[1]][follows[2]]
            if (set_to := given[section][key]) != default:
                shown = str(set_to).lower() if isinstance(set_to, bool) else set_to
                reason = next(text for pattern, text in REASONS.items() if re.fullmatch(pattern, f"{section}.{key}"))
                raise UserError(f"{section}.{key}={shown}: {reason}")


@cache
def _plain_defaults(task: str) -> dict[str, dict[str, Any]]:
    """Return fairseq's defaults by section, with a task's defaults as ``task``; interpolations are not resolved."""
    sections = {**fairseq_defaults(), "task": TASK_DATACLASS_REGISTRY[task]()}
    plain: Any = OmegaConf.to_container(OmegaConf.create(sections), resolve=False, enum_to_str=True)
    return plain
