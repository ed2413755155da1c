"""When an update ends, and models that train in two processes: as one does on both batches, also when one is empty."""

import pytest
import torch
import torch.distributed as dist
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.distributed import ModuleProxyWrapper

from normplugins.models.norm_settings import refuse_unread_settings
from normplugins.norms import end_update, running_statistics
from normplugins.utils.errors import UserError
from tests.helpers.language_models import MODELS, make_language_model, make_segments, make_task
from tests.helpers.models import KINDS_OF_NORMS, PAD, both_stacks, make_batch, make_model

KINDS = ("translation", *MODELS)
ADAPTIVE = {"adaptive_softmax_cutoff": "6,12", "adaptive_input": True}


def make(kind, norm, **changes):
    """A model in float64 whose norms, of both stacks, are this one; with 24 words."""
    if kind == "translation":
        return make_model(**both_stacks(norm), **changes).double().train()
    return make_language_model(kind, norm=norm, size=24, **changes).double().train()


def make_rows(kind, seed):
    """Four sentences or segments as columns of one table each: what ``loss_of`` takes any rows of."""
    return make_batch(seed) if kind == "translation" else {"segments": make_segments(seed, size=24)}


def trimmed(tokens):
    """Without the columns that only padding is in."""
    used = tokens.ne(PAD).any(0)
    return tokens[:, used] if used.any() else tokens


def loss_of(kind, model, rows):
    """Summed over the target's tokens, so that losses of parts add up to the whole's."""
    if kind == "translation":
        logits, _ = model(trimmed(rows["src_tokens"]), None, trimmed(rows["prev_output_tokens"]))
        target = trimmed(rows["target"]).flatten()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target, ignore_index=PAD, reduction="sum")
    criterion = AdaptiveLoss if model.decoder.adaptive_softmax else CrossEntropyCriterion
    source, target = rows["segments"][:, :-1], rows["segments"][:, 1:].contiguous()
    sample = {"net_input": {"src_tokens": source}, "target": target, "ntokens": target.numel()}
    return criterion(make_task(24), sentence_avg=False)(model, sample)[0]


def train(kind, norm, shares, **changes):
    """Three updates, each process on its share of the rows: after each, gradients and running statistics."""
    inner = model = make(kind, norm, **changes)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.01)
    share, world = slice(None), 1
    if dist.is_initialized():
        model = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(inner))
        share, world = shares[dist.get_rank()], dist.get_world_size()
    seen = []
    for update in range(3):
        model.set_num_updates(update)
        optimizer.zero_grad()
        loss_of(kind, model, {name: table[share] for name, table in make_rows(kind, update).items()}).backward()
        for p in inner.parameters():
            p.grad *= world  # DistributedDataParallel divides by it
        optimizer.step()
        seen.append({name: p.grad.clone() for name, p in inner.named_parameters()})
        model.set_num_updates(update + 1)
        seen.append({name: value.clone() for name, value in running_statistics(inner).items()})
    return seen


UNEVEN, NOTHING = (slice(0, 3), slice(3, 4)), (slice(0, 4), slice(4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "norm", "shares", "changes"),
    [
        ("translation", "bn", UNEVEN, {"norm_sync": "batch"}),
        ("translation", "pnv", NOTHING, {"norm_sync": "batch", "checkpoint_activations": True}),
        ("translation", "pn_alg2", NOTHING, {"norm_sync": "deferred"}),
        ("transformer", "weight", NOTHING, {"norm_sync": "batch", "normalize_before": True, **ADAPTIVE}),
        ("tensor", "bn", NOTHING, {"norm_sync": "batch", **ADAPTIVE}),
        ("tensor", "pn", UNEVEN, {"norm_sync": "batch", "norm_warmup_updates": 1, "checkpoint_activations": True}),
    ],
)
def test_under_distributed_data_parallel_two_processes_are_one(kind, norm, shares, changes, pair):
    one, other = pair.call(train_kinds, kind, norm, shares, changes)
    whole = train(kind, norm, shares, **(changes | {"norm_sync": "none"}))
    for update, (first, second, want) in enumerate(zip(one, other, whole, strict=True)):
        assert want.keys() == first.keys()
        for name, value in want.items():
            where = f"{name}, update {update // 2}"
            torch.testing.assert_close(first[name], value, rtol=0, atol=1e-9, msg=lambda m, w=where: f"{w}: {m}")
            assert torch.equal(first[name], second[name]), where


def train_kinds(kind, norm, shares, changes):
    return train(kind, norm, shares, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "norm", "adaptive"),
    [(kind, norm, adaptive) for adaptive in (False, True) for kind in (MODELS if adaptive else KINDS)
     for norm in KINDS_OF_NORMS],
)  # fmt: skip
def test_an_empty_batch_runs_and_counts_nowhere(kind, norm, adaptive):
    """With gradients, all of them zero, for all parameters."""
    model = make(kind, norm, **(ADAPTIVE if adaptive else {}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = loss_of(kind, model, {name: table[:0] for name, table in make_rows(kind, 0).items()})
    loss.backward()
    assert loss.item() == 0
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.any()]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_number_of_updates_ends_the_update(kind):
    """As fairseq tells it: before each batch, the number of updates done."""
    model, twin = (make(kind, "pn", norm_per_update=True) for _ in range(2))
    initial = {name: value.clone() for name, value in running_statistics(model).items()}
    for seed in range(2):
        model.set_num_updates(0)
        for each in (model, twin):
            loss_of(kind, each, make_rows(kind, seed)).backward()
    assert all(torch.equal(value, initial[name]) for name, value in running_statistics(model).items())
    end_update(twin)
    for _ in range(2):
        model.set_num_updates(1)
        assert not any(torch.equal(value, initial[name]) for name, value in running_statistics(model).items())
        for name, value in running_statistics(model).items():
            assert torch.equal(value, running_statistics(twin)[name])


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_that_no_norm_keeps_are_refused(kind):
    with pytest.raises(UserError, match=r"norm_sync=batch \(--norm-sync\) has no effect on rms"):
        refuse_unread_settings(make(kind, "rms", norm_sync="batch").decoder.cfg)
    refuse_unread_settings(make(kind, "bn", norm_sync="batch").decoder.cfg)


def test_one_stack_with_statistics_is_enough_and_each_must_bear_the_setting():
    make_model(encoder_norm="pn_alg2", decoder_norm="ln", norm_sync="deferred", norm_per_update=True)
    with pytest.raises(
        UserError, match=r"encoder_norm: sync=deferred does not work with BatchNorm, which .*use sync=batch"
    ):
        make_model(encoder_norm="bn", decoder_norm="ln", norm_sync="deferred")
