"""Re-estimated statistics equal those computed by hand, nothing else changes, and the command line uses them."""

from itertools import islice

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

import normplugins
from normplugins.evaluation.reestimate import checkpoint_to_score, measure, provenance, training_batches
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from tests.helpers.runs import TINY_LM, differences, files, load, succeed

BATCHES = 3


@pytest.fixture
def run(trained):
    """The config of a run of ``pn``, its averaged checkpoint and its corpus."""
    config = OmegaConf.load(trained.directory / "config.yaml")
    config.evaluate.recalibrate = BATCHES
    bin_dir = next(trained.data_dir.rglob("dict.*.txt")).parent
    return config, trained.directory / checkpoints.AVERAGED, bin_dir


def reload(run):
    normplugins.register()
    config, checkpoint, bin_dir = run
    overrides = {"data": str(bin_dir)}
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], arg_overrides=overrides)
    return config, model.eval(), cfg, task


def test_batches_are_those_of_the_runs_first_epoch(run):
    config, model, cfg, task = reload(run)
    trainer = Trainer(fairseq_config(config), task, model, task.build_criterion(cfg.criterion))
    trained_on = [batch["id"].tolist() for batch in trainer.get_train_iterator(1).next_epoch_itr(shuffle=True)]
    assert [batch["id"].tolist() for batch in training_batches(config, task, model.max_positions())] == trained_on
    assert len(trained_on) > BATCHES


def test_psi_is_the_quadratic_mean_over_every_real_token_of_the_batches(run):
    config, model, _, task = reload(run)
    norms = {name: norm for name, norm in model.named_modules() if hasattr(norm, "running_phi")}
    assert len(norms) == 3, "two of a layer and the last, of the encoder alone"
    tokens: dict[str, list[torch.Tensor]] = {name: [] for name in norms}

    def keep(name):
        def hook(norm, inputs):
            x, padding = inputs
            real = x.transpose(0, 1)[~padding] if padding is not None else x.flatten(0, 1)
            groups = real.view(len(real), norm.groups, -1)
            scaled = groups / (groups.square().mean(-1, keepdim=True) + norm.eps).sqrt()
            tokens[name].append(scaled.reshape(real.shape).double())

        return hook

    for name, norm in norms.items():
        norm.register_forward_pre_hook(keep(name))
    counted = 0
    for batch in islice(training_batches(config, task, model.max_positions()), BATCHES):
        with torch.no_grad():
            model.encoder(batch["net_input"]["src_tokens"])
        counted += int((batch["net_input"]["src_tokens"] != task.source_dictionary.pad()).sum())
    found, seen = measure(*run)
    assert seen == {"batches": BATCHES, "tokens": counted}
    for name, rows in tokens.items():  # PN's warmup is over: below each norm stands what evaluation has there
        together = torch.cat(rows)
        assert len(together) == counted
        torch.testing.assert_close(found[f"{name}.running_phi"].double(), together.square().mean(0), rtol=1e-5, atol=0)


def test_more_batches_than_an_epoch_has_are_that_epoch(run):
    config, model, _, task = reload(run)
    config.evaluate.recalibrate = 10_000
    assert measure(*run)[1]["batches"] == len(list(training_batches(config, task, model.max_positions())))


def test_only_the_statistics_change_and_an_existing_copy_is_not_written_again(run, tmp_path):
    config, averaged, bin_dir = run
    path = checkpoint_to_score(config, averaged, bin_dir, tmp_path)
    assert path == tmp_path / "checkpoint_recalibrated.pt"
    before, after = load(averaged), load(path)
    changed = {name for name, value in before["model"].items() if not torch.equal(value, after["model"][name])}
    assert changed == {name for name in before["model"] if name.endswith("running_phi")}
    assert before["model"].keys() == after["model"].keys()
    made = after["extra_state"]["recalibrated"]
    assert (made["from"], made["batches"]) == ("checkpoint_averaged.pt", BATCHES)
    assert after["extra_state"]["averaged_from"] == checkpoints.averaged_from(averaged)
    told = {"norms": ["pn"], "from": ["a.pt", "b.pt"], "obtained": "measured"}
    assert provenance(config, path, ["a.pt", "b.pt"]) == told | {"batches": BATCHES, "tokens": made["tokens"]}
    written = files(tmp_path)
    assert checkpoint_to_score(config, averaged, bin_dir, tmp_path) == path
    assert files(tmp_path) == written
    config.evaluate.recalibrate = BATCHES - 1
    checkpoint_to_score(config, averaged, bin_dir, tmp_path)
    assert load(path)["extra_state"]["recalibrated"]["batches"] == BATCHES - 1


def test_off_it_is_the_checkpoint_itself(run, tmp_path):
    config, averaged, bin_dir = run
    for off in (None, 0):
        config.evaluate.recalibrate = off
        assert checkpoint_to_score(config, averaged, bin_dir, tmp_path) == averaged
        assert provenance(config, averaged, ["a.pt"])["obtained"] == "averaged"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_of_a_language_model_is_scored_and_recorded_so(train_language_model, made_up_text):
    run = train_language_model("norm=bn", "evaluate.recalibrate=2", "model.causal=true")
    assert "evaluate.recalibrate=2" in run.record["variant"]
    told = run.record["training"]["statistics"]
    assert told == {
        "norms": ["bn"],
        "from": ["checkpoint_best.pt"],
        "obtained": "measured",
        "batches": 2,
        "tokens": 2 * 6 * 8,
    }
    best, scored = (
        load(run.directory / name)["model"] for name in ("checkpoint_best.pt", "checkpoint_recalibrated.pt")
    )
    assert {name.rpartition(".")[2] for name in differences(best, scored)} == {"running_mean", "running_var"}
    last, of_last = (
        load(run.directory / name)["model"] for name in ("checkpoint_last.pt", "checkpoint_last_recalibrated.pt")
    )
    assert {name.rpartition(".")[2] for name in differences(last, of_last)} == {"running_mean", "running_var"}
    named = {name: file["file"] for name, file in run.record["files"]["checkpoints"].items()}
    assert named == {"best": "checkpoint_recalibrated.pt", "last": "checkpoint_last_recalibrated.pt"}
    written = {name: at for name, at in files(run.directory).items() if name.startswith("checkpoint")}
    (run.directory / "record.json").unlink()
    again = ["run", "ptb", "tracking=none", "run_dir=run", *TINY_LM]
    overrides = ["norm=bn", "evaluate.recalibrate=2", "model.causal=true"]
    succeed([*again, *overrides], run.folder, NORMPLUGINS_MIRROR=str(made_up_text))
    assert {name: at for name, at in files(run.directory).items() if name.startswith("checkpoint")} == written


@pytest.mark.parametrize(
    ("experiment", "overrides", "norms"),
    [
        ("demo", ["norm=ln"], "ln"),
        ("demo", ["norm=rms"], "rms, ln"),
        ("ptb", ["norm=instance", "model.causal=true"], "instance"),
    ],
)
def test_refused_for_norms_without_statistics(experiment, overrides, norms):
    config = compose_config(experiment, overrides)
    check(config)
    config.evaluate.recalibrate = 10
    with pytest.raises(UserError, match=rf"^evaluate.recalibrate=10: no norm of this model \({norms}\) has running"):
        check(config)


def test_accepted_where_either_stack_has_statistics():
    check(compose_config("demo", ["norm=ln", "model.decoder_norm=bn", "evaluate.recalibrate=10"]))
