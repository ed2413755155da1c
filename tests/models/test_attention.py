import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normplugins.models.attention import (
    CrossAttention,
    SelfAttention,
    causal_attention_mask,
    padding_attention_mask,
)

padding_masks = (
    st.integers(1, 6)
    .flatmap(lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=3))
    .map(torch.tensor)
)


@settings(deadline=None)
@given(padding_masks)
def test_no_query_is_left_without_a_key(padding):
    for mask in (padding_attention_mask(padding, torch.float32), causal_attention_mask(padding, torch.float32)):
        assert mask.softmax(dim=-1).isfinite().all()


@settings(deadline=None)
@given(padding_masks)
def test_a_token_sees_real_tokens_up_to_itself(padding):
    mask = causal_attention_mask(padding, torch.float32)[:, 0]
    for b in range(padding.size(0)):
        for t in range(padding.size(1)):
            seen = mask[b, t].eq(0).nonzero().flatten().tolist()
            real = [s for s in range(t + 1) if not padding[b, s]]
            assert seen == (real or list(range(t + 1)))


@settings(deadline=None)
@given(padding_masks)
def test_each_row_of_the_causal_mask_is_the_padding_mask_of_that_prefix(padding):
    mask = causal_attention_mask(padding, torch.float32)
    for t in range(padding.size(1)):
        torch.testing.assert_close(
            mask[:, :, t : t + 1, : t + 1], padding_attention_mask(padding[:, : t + 1], mask.dtype)
        )


def test_cross_attention_takes_a_memory_of_another_width():
    torch.manual_seed(0)
    attention = CrossAttention(8, 6, 2, 0.0)
    x, memory = torch.randn(4, 3, 8), torch.randn(5, 3, 6)
    reference = torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=6)
    k, v = attention.kv.weight.chunk(2)
    reference.load_state_dict(
        {
            "q_proj_weight": attention.q.weight,
            "k_proj_weight": k,
            "v_proj_weight": v,
            "in_proj_bias": torch.cat([attention.q.bias, attention.kv.bias]),
            "out_proj.weight": attention.out.weight,
            "out_proj.bias": attention.out.bias,
        }
    )
    torch.testing.assert_close(attention(x, memory, None), reference(x, memory, memory)[0])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_applied_in_training_only(training):
    torch.manual_seed(0)
    attention, x = SelfAttention(8, 2, 0.5).train(training), torch.randn(5, 3, 8)
    assert torch.equal(attention(x, None), attention(x, None)) is not training
