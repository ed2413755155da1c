"""A model reloaded from its fairseq checkpoint computes the same in evaluation and in beam search."""

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble, torch_persistent_save
from omegaconf import OmegaConf

import normplugins
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError
from tests.helpers.models import (
    KINDS_OF_NORMS,
    assert_same_translations,
    both_stacks,
    make_batch,
    make_model,
    make_settings,
    make_task,
    train,
    translate,
)


def save(model: NormTransformer, settings: dict, path) -> None:
    """What fairseq's trainer writes, less the optimizer."""
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 4}
    cfg = {"model": {"_name": "norm_transformer", **settings}, "task": {"_name": "translation"}}
    state = {"args": None, "cfg": OmegaConf.to_container(OmegaConf.create(cfg)), "model": model.state_dict()}
    torch_persistent_save(state | {"optimizer_history": [history], "extra_state": {}}, str(path))


@pytest.mark.slow
@pytest.mark.parametrize("norm", KINDS_OF_NORMS)
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
def test_reloaded_it_gives_the_same(norm, pre, tmp_path):
    task = make_task()
    settings = vars(make_settings(**both_stacks(norm), normalize_before=pre))
    model = train(make_model(task=task, **settings)).eval()
    save(model, settings, tmp_path / "checkpoint.pt")
    (reloaded,), _ = load_model_ensemble([str(tmp_path / "checkpoint.pt")], task=task)
    reloaded.eval()
    assert model.state_dict().keys() == reloaded.state_dict().keys()

    batch = make_batch(8)
    with torch.no_grad():
        expected, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
        given, _ = reloaded(batch["src_tokens"], None, batch["prev_output_tokens"])
    assert torch.equal(given, expected)

    in_memory = translate(model)
    assert_same_translations(translate(reloaded), in_memory, tolerance=0)
    assert_same_translations(translate(model, incremental=False), in_memory)


def test_settings_that_no_norm_reads_are_refused_of_a_new_model_and_not_of_a_checkpoint(tmp_path):
    """A checkpoint may have been written when they were accepted."""
    normplugins.register()
    task = make_task()
    settings = vars(make_settings(norm_momentum=0.5, norm_groups=4))
    save(make_model(task=task, **settings), settings, tmp_path / "checkpoint.pt")
    (reloaded,), _ = load_model_ensemble([str(tmp_path / "checkpoint.pt")], task=task)
    assert reloaded.decoder.cfg.norm_momentum == 0.5
    with pytest.raises(UserError, match=r"norm_momentum=0\.5 \(--norm-momentum\) has no effect on ln: ln reads eps"):
        task.build_model(OmegaConf.create({"_name": "norm_transformer", **settings}))


@pytest.mark.parametrize("pad_left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("norm", ["ln", "pn", "weight"])
def test_decoding_step_by_step_equals_the_whole_target_at_once(norm, pad_left):
    model = train(make_model(**both_stacks(norm))).eval()
    batch = make_batch(8)
    target = batch["prev_output_tokens"].flip(1) if pad_left else batch["prev_output_tokens"]
    with torch.no_grad():
        encoded, state = model.encoder(batch["src_tokens"]), {}
        whole, _ = model.decoder(target, encoded)
        steps = [model.decoder(target[:, : t + 1], encoded, incremental_state=state)[0] for t in range(6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


def test_reordering_follows_the_sentences():
    model = train(make_model(encoder_norm="pn")).eval()
    batch, order = make_batch(8), torch.tensor([2, 0, 0])
    target = batch["prev_output_tokens"]
    with torch.no_grad():
        encoded, state = model.encoder(batch["src_tokens"]), {}
        whole, _ = model.decoder(target, encoded)
        for t in range(3):
            model.decoder(target[:, : t + 1], encoded, incremental_state=state)
        model.decoder.reorder_incremental_state_scripting(state, order)
        encoded = model.encoder.reorder_encoder_out(encoded, order)
        step, _ = model.decoder(target[order, :4], encoded, incremental_state=state)
    torch.testing.assert_close(step[:, 0], whole[order, 3])
