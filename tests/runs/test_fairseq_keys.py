"""Every key and component of fairseq's trainer and tasks either works or is refused with a reason."""

from math import isfinite

import pytest
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from normplugins.evaluation.tasks import run_task
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, fairseq_config, fairseq_defaults
from normplugins.runs.dry_run import synthetic_task
from normplugins.runs.fairseq_keys import COMPONENTS, SUPPORTED, check_fairseq_keys
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import UserError
from tests.helpers.runs import TINY, TINY_LM

# One value, other than the default, of each supported key.
TRAINER = [
    "common.empty_cache_freq=1",
    "common.all_gather_list_size=20000",
    "distributed_training.ddp_backend=legacy_ddp",
    "distributed_training.bucket_cap_mb=1",
    "distributed_training.find_unused_parameters=true",
    "dataset.num_workers=1",
    "dataset.required_batch_size_multiple=2",
    "dataset.required_seq_len_multiple=4",
    "dataset.data_buffer_size=2",
    "dataset.max_tokens_valid=1000",
    "dataset.batch_size_valid=7",
    "dataset.curriculum=1",
    "optimization.max_epoch=2",
    "optimization.max_update=5",
    "optimization.clip_norm=1",
    "optimization.update_freq=[2]",
    "optimization.lr=[0.01]",
    "optimization.stop_min_lr=1e-9",
    "checkpoint.patience=3",
]
TRANSLATION = ["task.left_pad_source=false", "task.max_source_positions=512", "task.max_target_positions=512"]
SET_BY_TINY_RUNS = "common.log_interval common.cpu dataset.max_tokens dataset.batch_size"
SET_ELSEWHERE = "common.seed distributed_training.distributed_world_size"


def dotted(sections):
    return {f"{section}.{key}" for section, keys in sections.items() for key in keys.split()}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["demo", "ptb"])
def test_every_key_that_is_not_supported_is_refused(experiment):
    config = OmegaConf.create(OmegaConf.to_container(compose_config(experiment, ["hardware=cpu"]), enum_to_str=True))
    check_fairseq_keys(config)
    sections = {name: [*section] for name, section in fairseq_defaults().items()}
    sections["task"] = [*OmegaConf.structured(TASK_DATACLASS_REGISTRY[config.task._name])]
    supported = dotted(SUPPORTED)
    for key in (f"{section}.{key}" for section, keys in sections.items() for key in keys if key != "_name"):
        if key.replace("task.", f"{config.task._name}.") not in supported:
            before = OmegaConf.select(config, key)
            OmegaConf.update(config, key, "another value")
            with pytest.raises(UserError, match=f"{key}=another value"):
                check_fairseq_keys(config)
            OmegaConf.update(config, key, before)


def test_the_runs_below_try_every_supported_key():
    tried = {item.partition("=")[0] for item in TRAINER} | {
        item.partition("=")[0].replace("task.", "translation.") for item in TRANSLATION
    }
    tried |= {"language_modeling.tokens_per_sample", *f"{SET_BY_TINY_RUNS} {SET_ELSEWHERE}".split()}
    assert dotted(SUPPORTED) <= tried


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in COMPONENTS.items() for name in names if group != "model"]
)
def test_every_supported_component_trains(group, name):
    of_text = name in ("cross_entropy", "adaptive_loss", "fixed")  # they do not fit the experiments of translation
    overrides = list(TINY_LM if of_text else TINY)
    if name == "adaptive_loss":
        overrides += ["model.adaptive_softmax_cutoff='5,9'", "distributed_training.ddp_backend=legacy_ddp"]
    config = compose_config("ptb" if of_text else "demo", [*overrides, f"{group}={name}"])
    check(config)
    settings = fairseq_config(config)
    task, batch = synthetic_task(run_task(config.task._name), settings, 50)
    trainer = Trainer(settings, task, task.build_model(settings.model), task.build_criterion(settings.criterion))
    assert all(isfinite(trainer.train_step([batch(5, 8)])["loss"]) for _ in range(2))


@pytest.mark.parametrize(
    "component", ["criterion=nat_loss", "lr_scheduler=reduce_lr_on_plateau", "optimizer=cpu_adam", "model=hubert"]
)
def test_every_other_component_is_refused(component):
    with pytest.raises(UserError, match=rf"{component}: a run does not support it\. Known: "):
        compose_config("demo", ["hardware=cpu", component])


@pytest.mark.slow
def test_all_supported_keys_together_train_and_score_a_model(accepted, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = accepted(
        "run",
        "demo",
        "norm=pn",
        "tracking=none",
        f"data_dir={trained.data_dir}",
        *TINY,
        *TRAINER,
        *TRANSLATION,
        "evaluate.max_length_b=3",
    )
    assert "trained 5 updates" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "override", "reason"),
    [
        ("demo", "task.eval_bleu=true", "scored after training"),
        ("demo", "ema.store_ema=true", "evaluate.average=N scores the mean"),
        ("demo", "task.source_lang=xx", "follows from another setting"),
        ("demo", "dataset.train_subset=valid", "trains on the whole prepared training set"),
        ("demo", "checkpoint.reset_optimizer=true", "resumes exactly"),
        ("demo", "common.fp16=true", "precision=bf16"),
        ("demo", "common.seed=5", "follows from seed=1"),
        ("demo", "optimizer.lr=[0.5]", r"follows from optimization.lr=\[0.005\]"),
        ("ptb", "criterion.sentence_avg=true", "follows from optimization.sentence_avg"),
        ("ptb", "optimization.sentence_avg=true", "losses are means over words"),
        ("demo", "distributed_training.ddp_backend=slowmo", "legacy_ddp"),
    ],
)
def test_a_refused_key(experiment, override, reason):
    with pytest.raises(UserError, match=f"{override.partition('=')[0]}=.*{reason}"):
        check(compose_config(experiment, ["hardware=cpu", override]))


def test_a_key_that_follows_another_key_changes_with_it():
    check(compose_config("ptb", ["hardware=cpu", "seed=7", "dataset.data_buffer_size=3"]))
