import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from normplugins.models.attention import SelfAttention, causal_attention_mask, padding_attention_mask
from normplugins.models.varlen import VarlenLayout, varlen_attention
from tests.helpers.compiler import needs_libraries
from tests.helpers.models import KINDS_OF_NORMS, PAD, both_stacks, loss_of, make_batch, make_model

HEADS, WIDTH = 2, 8
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [True] + [False] * 4])  # (B, T), on either side

padding_masks = (
    st.integers(1, 5)
    .flatmap(lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=3))
    .map(torch.tensor)
)


def in_double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def by_pytorch(packed, mask):
    """Attention of (T, B, C) to (S, B, C) as PyTorch computes it, from what ``varlen_attention`` takes: (T, B, C)."""
    parts = [part for x in packed for part in x.split(WIDTH, dim=-1)]
    q, k, v = (part.unflatten(-1, (HEADS, -1)).permute(1, 2, 0, 3) for part in parts)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 0, 1, 3).flatten(2)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "not masked"])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_it_is_scaled_dot_product_attention_forward_and_backward(kind, masked):
    packed = [in_double(5, 3, 3 * WIDTH)] if kind == "self" else [in_double(4, 3, WIDTH), in_double(5, 3, 2 * WIDTH)]
    build = causal_attention_mask if kind == "self" else padding_attention_mask
    mask = build(PADDING, torch.double) if masked else None
    targets, sources = VarlenLayout(packed[0].size(0), 3), VarlenLayout(5, 3)
    expected = by_pytorch(packed, mask)
    rows = varlen_attention(HEADS, mask, 0.0, targets, sources, *(x.flatten(0, 1) for x in packed))
    given = rows.view_as(expected)
    torch.testing.assert_close(given, expected)
    gradient = in_double(*expected.shape, seed=1)
    for ours, theirs in zip(*(torch.autograd.grad(y, packed, gradient) for y in (given, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_attention_of_fake_tensors_leaves_nothing_behind():
    shape = 6, 2, WIDTH
    with FakeTensorMode():
        assert SelfAttention(WIDTH, HEADS, 0.0)(torch.randn(shape), None).shape == shape
    assert SelfAttention(WIDTH, HEADS, 0.0)(torch.randn(shape), None).shape == shape


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.0, pytest.param(0.4, marks=needs_libraries)])
def test_without_the_rows_of_padding_the_tokens_get_the_same_and_the_gradient_is_that_of_the_forward(p):
    layout, mask = VarlenLayout.from_padding_mask(PADDING), causal_attention_mask(PADDING, torch.double)
    qkv = in_double(12, 3 * WIDTH)
    assert qkv.size(0) == len(layout.tokens)
    full = layout.pad(qkv)
    if not p:
        expected = layout.unpad(by_pytorch([full], mask))
        torch.testing.assert_close(varlen_attention(HEADS, mask, p, layout, layout, qkv), expected)

    def same_masks(qkv):
        torch.manual_seed(0)
        return varlen_attention(HEADS, mask, p, layout, layout, qkv)

    assert torch.autograd.gradcheck(same_masks, (qkv,))


@needs_libraries
def test_dropped_weights_leave_the_mean_as_it_was():
    torch.manual_seed(0)
    qkv, layout = torch.randn(15, 3 * WIDTH), VarlenLayout(5, 3)
    draws = torch.stack([varlen_attention(HEADS, None, 0.3, layout, layout, qkv) for _ in range(2000)])
    kept = varlen_attention(HEADS, None, 0.0, layout, layout, qkv)
    assert draws.std(0).min() > 0
    assert ((draws.mean(0) - kept).abs() < 6 * draws.std(0) / 2000**0.5).all()


@settings(deadline=None)
@given(padding_masks)
def test_rows_are_taken_and_put_back(padding):
    layout = VarlenLayout.from_padding_mask(padding)
    batch, time = padding.shape
    x = torch.arange(1.0, 1 + time * batch * WIDTH).view(time, batch, WIDTH)
    taken = layout.unpad(x)
    whole = layout.tokens is None  # no padding, or nothing else
    assert whole is bool(padding.all() or not padding.any())
    assert torch.equal(taken, x.flatten(0, 1) if whole else x.flatten(0, 1)[~padding.t().flatten()])
    assert torch.equal(layout.pad(taken), x if whole else x * ~padding.t()[..., None])
    in_heads = layout.to_heads(taken, HEADS, 1)
    assert torch.equal(layout.from_heads(in_heads, HEADS, 1), taken)


@pytest.mark.parametrize("norm", ["ln", "bn", "group"])
def test_a_decoder_in_training_does_not_depend_on_how_much_padding_there_is(norm):
    batch = make_batch()
    target = ("prev_output_tokens", "target")
    padded = {key: F.pad(x, (0, 3), value=PAD) if key in target else x for key, x in batch.items()}
    found = []
    for given_batch in (batch, padded):
        model = make_model(**both_stacks(norm)).double().train()
        loss = loss_of(model, given_batch)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("norm", "left_out"), [pytest.param("ln", True, marks=needs_libraries), ("bn", False)])
def test_a_decoder_in_training_leaves_padding_out_where_no_norm_looks_at_it(norm, left_out):
    model, batch = make_model(**both_stacks(norm), dropout=0.1, attention_dropout=0.1).train(), make_batch()
    seen = []
    model.decoder.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(args[0].shape[:-1].numel()))
    loss_of(model, batch).backward()
    target = batch["prev_output_tokens"]
    assert seen == [int(target.ne(PAD).sum()) if left_out else target.numel()]
    assert target.eq(PAD).any()


@pytest.mark.parametrize("norm", [*KINDS_OF_NORMS, "bn", "pnv", "pn_alg2", "rms"])  # the last ones have kernels
def test_under_autocast_operations_without_a_kernel_fall_back(norm: str) -> None:
    """A kernel that has no code for bfloat16 leaves the operation to PyTorch; the loss is that of float32, rounded."""
    probability = 1e-3  # it turns on the kernels that draw masks, and hardly changes the loss
    changes = {"dropout": probability, "attention_dropout": probability, "activation_dropout": probability}
    model = make_model(encoder_norm=norm, **changes).train()
    exact = loss_of(model, make_batch(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, make_batch(0))
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
