"""The keys of fairseq's trainer and tasks: those that a run supports, and the reason why each other one is refused."""

from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf

from normplugins.utils.errors import UserError

# The sections of fairseq's config that its trainer reads; the components (model, task, ...) are config groups.
FAIRSEQ_SECTIONS = ("common", "distributed_training", "dataset", "optimization", "checkpoint", "bmuf", "ema")
DDP_BACKENDS = ("pytorch_ddp", "c10d", "legacy_ddp", "no_c10d")
SUPPORTED = {
    "common": "log_interval seed cpu bf16 fp16 fp16_init_scale fp16_scale_window fp16_scale_tolerance min_loss_scale "
    "threshold_loss_scale fp16_no_flatten_grads empty_cache_freq all_gather_list_size",
    "distributed_training": "distributed_world_size ddp_backend bucket_cap_mb find_unused_parameters",
    "dataset": "num_workers max_tokens batch_size required_batch_size_multiple required_seq_len_multiple "
    "data_buffer_size max_tokens_valid batch_size_valid curriculum grouped_shuffling",
    "optimization": "max_epoch max_update clip_norm update_freq lr stop_min_lr skip_remainder_batch",
    "checkpoint": "patience",
    "translation": "left_pad_source max_source_positions max_target_positions",
    "language_modeling": "tokens_per_sample",
}
"""The keys that may be set, by section; the keys of a task stand under the task's name."""
REFUSED = {
    "it has no effect here: only fairseq's own command line reads it": {
        "common": "no_progress_bar log_format log_file aim_repo aim_run_hash tensorboard_logdir wandb_project "
        "azureml_logging user_dir profile reset_logging suppress_crashes",
        "distributed_training": "distributed_no_spawn",
        "dataset": "validate_interval validate_interval_updates validate_after_updates disable_validation "
        "max_valid_steps fixed_validation_seed gen_subset ignore_unused_valid_subsets update_epoch_batch_itr "
        "num_shards shard_id",
        "optimization": "stop_time_hours",
        "checkpoint": "best_checkpoint_metric maximize_best_checkpoint_metric no_save save_interval "
        "save_interval_updates keep_interval_updates keep_interval_updates_pattern keep_last_epochs "
        "keep_best_checkpoints no_epoch_checkpoints no_last_checkpoints finetune_from_model restore_file continue_once",
        "translation": "upsample_primary",
    },
    "a run's precision is float32, common.bf16=true, or on a GPU common.fp16=true": {
        "common": "amp amp_batch_retries amp_init_scale amp_scale_window memory_efficient_fp16 memory_efficient_bf16 "
        "on_cpu_convert_precision",
    },
    "TPUs, plasma, quantization and models that are split over devices are not supported": {
        "common": "tpu use_plasma_view plasma_path quantization_config_path model_parallel_size",
        "distributed_training": "pipeline_model_parallel pipeline_balance pipeline_devices pipeline_chunks "
        "pipeline_encoder_balance pipeline_encoder_devices pipeline_decoder_balance pipeline_decoder_devices "
        "pipeline_checkpoint zero_sharding no_reshard_after_forward fp32_reduce_scatter cpu_offload use_sharded_state "
        "not_fsdp_flatten_parameters",
        "checkpoint": "checkpoint_shard_count model_parallel_size",
        "translation": "num_batch_buckets",
        "language_modeling": "tpu use_plasma_view plasma_path pad_to_fixed_length pad_to_fixed_bsz",
    },
    "processes are connected by hardware.processes or torchrun, and use PyTorch's DistributedDataParallel": {
        "distributed_training": "distributed_num_procs distributed_rank distributed_backend distributed_init_method "
        "distributed_port device_id ddp_comm_hook fix_batches_to_gpus gradient_as_bucket_view "
        "fast_stat_sync heartbeat_timeout broadcast_buffers slowmo_momentum slowmo_base_algorithm localsgd_frequency "
        "nprocs_per_node",
        "optimization": "use_bmuf",
        "bmuf": "block_lr block_momentum global_sync_iter warmup_iterations use_nbm average_sync",
    },
    "a run trains on all of the prepared training set, validates on the validation set, and skips no line of it": {
        "dataset": "dataset_impl train_subset valid_subset combine_valid_subsets skip_invalid_size_inputs_valid_test "
        "update_ordered_indices_seed",
        "translation": "load_alignments left_pad_target truncate_source",
        "language_modeling": "output_dictionary_size shorten_method shorten_data_split_list",
    },
    "a run resumes exactly from its own checkpoints": {
        "checkpoint": "reset_dataloader reset_lr_scheduler reset_meters reset_optimizer optimizer_overrides "
        "no_save_optimizer_state checkpoint_suffix load_checkpoint_on_all_dp_ranks write_checkpoints_asynchronously",
    },
    "the test set is scored after the training, as the section evaluate says": {
        "translation": "eval_bleu eval_bleu_args eval_bleu_detok eval_bleu_detok_args eval_tokenized_bleu "
        "eval_bleu_remove_bpe eval_bleu_print_samples",
    },
    "a moving average of the weights is not supported; evaluate.average=N scores the mean of N epochs": {
        "ema": "store_ema ema_decay ema_start_update ema_seed_model ema_update_freq ema_fp32",
    },
    "perplexity is measured on tokens predicted from the text before, in segments of task.tokens_per_sample": {
        "language_modeling": "sample_break_mode self_target future_target past_target add_bos_token "
        "max_target_positions",
    },
    "losses are means over words: with a mean over sentences, losses and counts of words could not be compared": {
        "optimization": "sentence_avg",
    },
    "it follows from another setting, which has to be set instead": {
        "distributed_training": "fp16 memory_efficient_fp16 tpu",
        "bmuf": "distributed_world_size",
        "translation": "data source_lang target_lang train_subset dataset_impl required_seq_len_multiple",
        "language_modeling": "data seed batch_size batch_size_valid dataset_impl data_buffer_size",
        "checkpoint": "save_dir",
    },
}
"""Reason -> section -> keys that a run refuses unless they have their defaults."""
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


def check_fairseq_keys(config: DictConfig) -> None:
    """Refuse a key of fairseq's trainer or task that a run does not support and that is not at its default.

    Raises:
        UserError: the message names the key, its value and the reason.
    """
    for key, source in FOLLOWS.items():
        value, needed = OmegaConf.select(config, key), OmegaConf.select(config, source)
        if value is not None and value != needed:
            raise UserError(f"{key}={value}: it follows from {source}={needed}, which has to be set instead")
    defaults = fairseq_defaults()
    defaults.task = TASK_DATACLASS_REGISTRY[config.task._name]()
    task = str(config.task._name)
    if task == "translation":
        defaults.task.source_lang, defaults.task.target_lang = config.corpus.source, config.corpus.target
    for section in defaults:  # a default may follow another key: common.seed for task.seed
        for key in SUPPORTED.get(task if section == "task" else str(section), "").split():
            defaults[section][key] = config[section][key]
    expected, given = (_plain(OmegaConf.masked_copy(each, list(defaults))) for each in (defaults, config))
    if (backend := given["distributed_training"]["ddp_backend"]) not in DDP_BACKENDS:
        raise UserError(f"distributed_training.ddp_backend={backend}: known are {', '.join(DDP_BACKENDS)}")
    for reason, sections in REFUSED.items():
        for name, keys in sections.items():
            section = "task" if name == task else name
            for key in keys.split() if section in expected else ():
                value = given[section].get(key, expected[section][key])
                if value != expected[section][key]:
                    shown = str(value).lower() if isinstance(value, bool) else value
                    raise UserError(f"{section}.{key}={shown}: {reason}")


def _plain(config: DictConfig) -> dict[str, dict[str, Any]]:
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return plain
