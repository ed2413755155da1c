import copy
from argparse import Namespace
from functools import cache

import pytest
import torch

from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError
from tests.helpers.models import (
    KINDS_OF_NORMS,
    PAD,
    both_stacks,
    loss_of,
    make_batch,
    make_dictionary,
    make_model,
    make_task,
    train,
)

PLACEMENTS = pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
EACH_KIND_OF_NORM = pytest.mark.parametrize("norm", KINDS_OF_NORMS)  # a layer does not ask for its norm


@cache
def trained(norm, pre=True):
    """A model in evaluation mode that tests share; they must not change it."""
    return train(make_model(**both_stacks(norm), normalize_before=pre)).eval()


def test_the_iwslt_model_has_no_dead_parameters():
    task = Namespace(source_dictionary=make_dictionary(10_080))
    task.target_dictionary = task.source_dictionary
    with torch.device("meta"):
        model = NormTransformer.build_model(
            Namespace(
                share_all_embeddings=True,
                **{f"{side}_ffn_embed_dim": 1024 for side in ("encoder", "decoder")},
                **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
            ),
            task,
        )
    assert sum(p.numel() for p in model.parameters()) == 36_706_304


def test_initial_weights_are_drawn_as_published():
    task = make_task(2000)
    layer = make_model(task=task).encoder.layers[0]
    fc1, qkv = layer.feed_forward.sublayer.fc1, layer.self_attention.sublayer.qkv
    assert 0.9 * (6 / 40) ** 0.5 < fc1.weight.abs().max() <= (6 / 40) ** 0.5
    assert not fc1.bias.any()
    xavier = (6 / (16 + 16)) ** 0.5 / 2**0.5
    assert all(0.9 * xavier < part.abs().max() <= xavier for part in qkv.weight.chunk(3))
    embedding = make_model(task=task).encoder.embed_tokens.weight
    assert not embedding[PAD].any()
    assert embedding[2:].std().item() == pytest.approx(16**-0.5, rel=0.02)


@pytest.mark.slow
@EACH_KIND_OF_NORM
@PLACEMENTS
def test_past_outputs_do_not_depend_on_future_tokens(norm, pre):
    model = trained(norm, pre)
    batch = make_batch()
    changed = batch["prev_output_tokens"].clone()
    changed[:, 3:] = changed[:, 3:].flip(0)
    before, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
    after, _ = model(batch["src_tokens"], None, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@EACH_KIND_OF_NORM
@PLACEMENTS
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padding_the_source_changes_no_output(norm, pre, left):
    model = trained(norm, pre)
    batch = make_batch()
    padding = (3, 0) if left else (0, 3)
    padded = torch.nn.functional.pad(batch["src_tokens"], padding, value=PAD)
    before, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
    after, _ = model(padded, None, batch["prev_output_tokens"])
    torch.testing.assert_close(before, after)


@EACH_KIND_OF_NORM
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_sentence_of_nothing_but_padding_is_finite(norm, training):
    model, batch = make_model(**both_stacks(norm)), make_batch()
    batch["src_tokens"][1] = PAD
    batch["prev_output_tokens"][2] = PAD
    loss = loss_of(model.train(training), batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@EACH_KIND_OF_NORM
def test_no_forward_or_backward_reads_a_value_back_from_the_device(norm):
    dropouts = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
    model = make_model(**both_stacks(norm), **dropouts).train().to("meta")
    loss_of(model, {name: value.to("meta") for name, value in make_batch().items()}).backward()  # reading one raises


@EACH_KIND_OF_NORM
def test_activation_checkpointing_changes_nothing(norm):
    runs = []
    for checkpointed in (False, True):
        dropouts = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
        model = make_model(encoder_norm=norm, **dropouts, checkpoint_activations=checkpointed)
        torch.manual_seed(1)
        runs.append(train(model, updates=3).state_dict())
    for name, plain in runs[0].items():
        torch.testing.assert_close(runs[1][name], plain, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@EACH_KIND_OF_NORM
@PLACEMENTS
def test_two_updates_change_every_parameter_and_leave_numbers(norm, pre):
    before = make_model(**both_stacks(norm), normalize_before=pre)
    after = train(make_model(**both_stacks(norm), normalize_before=pre), updates=2).state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert not [name for name, p in before.named_parameters() if torch.equal(p, after[name])]


def test_weight_normalization_is_of_the_linear_maps_of_its_own_stack_and_changes_no_initial_weight():
    plain, model = make_model(encoder_norm="none"), make_model(encoder_norm="weight")
    for name, linear in plain.named_modules():
        if isinstance(linear, torch.nn.Linear):
            ours = model.get_submodule(name)
            torch.testing.assert_close(ours.weight, linear.weight)
            assert hasattr(ours, "parametrizations") is name.startswith("encoder.")
    directions = {n: p for n, p in model.named_parameters() if n.endswith("original1")}
    assert len(directions) == 2 * 4
    fc1 = model.encoder.layers[0].feed_forward.sublayer.fc1
    before = fc1.weight.detach().clone()
    with torch.no_grad():
        fc1.parametrizations.weight.original1.mul_(3)  # the length of v says nothing
    torch.testing.assert_close(fc1.weight, before)


def test_separate_dictionaries_and_embeddings():
    task = make_task()
    task.tgt_dict = make_dictionary(30)
    model = make_model(task=task, share_all_embeddings=False, decoder_embed_dim=8, decoder_attention_heads=4)
    batch = make_batch()
    logits, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
    assert logits.shape == (4, 6, 30)
    assert model.decoder.output_projection.weight is not model.decoder.embed_tokens.weight


def test_sharing_embeddings_needs_a_joined_dictionary():
    task = make_task()
    task.tgt_dict = make_dictionary(30)
    with pytest.raises(UserError, match="one dictionary for both languages"):
        make_model(task=task)


def test_it_tells_fairseq_how_long_sentences_may_be():
    model = make_model(max_source_positions=50, max_target_positions=60)
    assert model.max_positions() == (50, 60)


@pytest.mark.slow
@EACH_KIND_OF_NORM
def test_in_bfloat16_it_stays_close_to_float32(norm):
    model, batch = copy.deepcopy(trained(norm)), make_batch()
    expected, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
    given, _ = model.bfloat16()(batch["src_tokens"], None, batch["prev_output_tokens"])
    assert given.dtype == torch.bfloat16
    assert (given - expected).abs().max() < 0.05 * expected.abs().max()
