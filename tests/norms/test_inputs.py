"""How norms are called: names and settings, layouts, masks, and PyTorch's fused encoder layer around a norm."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from normplugins.norms import NormConfig, build_norm, sees_sentence
from normplugins.norms.inputs import accept_masks
from tests.helpers.norms import NORMS, TOKEN_NORMS, random_affine

DIM = 16


def batch() -> tuple[Tensor, Tensor]:
    """x (T, B, C) in float64 and its padding mask (B, T)."""
    x = torch.randn(5, 3, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = mask[2, 1:] = True
    return x, mask


def norm_in_double(name: str, batch_first: bool = False) -> nn.Module:
    return random_affine(build_norm(name, DIM, batch_first=batch_first).double())


def test_a_name_with_settings_builds_what_a_config_builds() -> None:
    for norm in (build_norm("pn", DIM, groups=2), build_norm(NormConfig("pn", warmup_updates=9), DIM, groups=2)):
        assert norm.settings.groups == 2
    assert str(build_norm("pn", DIM, groups=2)) == str(build_norm(NormConfig("pn", groups=2), dim=DIM))
    assert "batch_first" not in str(build_norm("pn", DIM))
    assert "batch_first=True" in str(build_norm("pn", DIM, batch_first=True))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ln", {"momentum": 0.5}, "norm 'ln' does not read momentum; it reads: eps"),
        ("none", {"eps": 0.5}, "norm 'none' does not read eps; it reads: no setting"),
        ("pnv", {"groups": 2}, "norm 'pnv' does not read groups; it reads: .*group_scaling"),
    ],
)
def test_settings_that_the_norm_does_not_read_are_refused(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_norm(name, DIM, **settings)


@pytest.mark.parametrize("name", [*(name for name in NORMS if name != "none"), "rms in groups"])
def test_an_input_of_other_channels_or_of_whole_numbers_is_refused(name: str) -> None:
    norm = build_norm("rms", DIM, groups=2).eval() if name == "rms in groups" else build_norm(name, DIM)
    with pytest.raises(ValueError, match="3, 2, 1"):
        norm(torch.randn(3, 2, 1))
    with pytest.raises(TypeError):
        norm(torch.ones(3, 2, DIM, dtype=torch.int64))


@pytest.mark.parametrize("name", NORMS)
def test_batch_first_is_the_same_norm_of_a_transposed_x(name: str) -> None:
    norm, other = norm_in_double(name), norm_in_double(name, batch_first=True)
    x, mask = batch()
    inputs = [x.clone().requires_grad_(), x.transpose(0, 1).contiguous().requires_grad_()]
    for _ in range(2):
        y, transposed = norm(inputs[0], mask), other(inputs[1], mask)
        assert transposed.is_contiguous()
        torch.testing.assert_close(transposed.transpose(0, 1), y)
        y.square().sum().backward()
        transposed.square().sum().backward()
        torch.testing.assert_close(inputs[1].grad.transpose(0, 1), inputs[0].grad)
        torch.testing.assert_close(other.state_dict(), norm.state_dict())
        norm.eval()
        other.eval()
    if not sees_sentence(name):
        torch.testing.assert_close(other(x[:, 0]), norm(x[:, 0]))


@pytest.mark.parametrize("name", NORMS)
def test_an_attention_mask_is_the_opposite_of_a_padding_mask(name: str) -> None:
    x, mask = batch()
    expected = norm_in_double(name)(x, mask)
    for dtype in (torch.int64, torch.bool, torch.uint8):
        torch.testing.assert_close(norm_in_double(name)(x, attention_mask=(~mask).to(dtype)), expected)


@pytest.mark.parametrize("name", NORMS)
def test_wrong_masks_are_refused_before_anything_is_counted(name: str) -> None:
    x, mask = batch()
    norm, batch_first = norm_in_double(name), norm_in_double(name, batch_first=True)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    for wrong in (mask.long(), mask.double()):
        with pytest.raises(TypeError, match=rf"must be torch.bool, True at padding, not {wrong.dtype}"):
            norm(x, wrong)
    with pytest.raises(TypeError, match=r"attention_mask must be integers or booleans, .* not torch.float64"):
        norm(x, attention_mask=mask.double())
    with pytest.raises(ValueError, match="both given"):
        norm(x, mask, attention_mask=~mask)
    with pytest.raises(ValueError, match=r"mask \(5, 3\) does not fit x \(5, 3, 16\): .*as batch_first is False"):
        norm(x, mask.t())
    with pytest.raises(ValueError, match=r"mask \(3, 5\) does not fit x \(5, 3, 16\): .*as batch_first is True"):
        batch_first(x, mask)
    with pytest.raises(ValueError, match=r"mask \(3, 5\) does not fit x \(3, 16\)"):
        norm(x[0], mask)
    with pytest.raises(ValueError, match=r"not with x \(1, 5, 3, 16\); in swap_norms, leave out"):
        norm(x[None], mask)
    torch.testing.assert_close(norm.state_dict(), before)


def explicit(layer: nn.TransformerEncoderLayer, x: Tensor, mask: Tensor | None) -> Tensor:
    """The output of an encoder layer without dropout, by calls of its parts."""

    def attend(x: Tensor) -> Tensor:
        y: Tensor = layer.self_attn(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        return y

    def feed_forward(x: Tensor) -> Tensor:
        y: Tensor = layer.linear2(layer.linear1(x).relu())
        return y

    if layer.norm_first:
        x = x + attend(layer.norm1(x))
        return x + feed_forward(layer.norm2(x))
    x = layer.norm1(x + attend(x))
    return layer.norm2(x + feed_forward(x))  # type: ignore[no-any-return]


def layer_with(name: str, norm_first: bool, second: str | None = None) -> nn.TransformerEncoderLayer:
    """A layer whose norms were replaced by hand; in evaluation mode and with statistics away from their start."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(DIM, 2, 32, 0.0, batch_first=True, norm_first=norm_first, dtype=torch.float64)
    layer.norm1 = norm_in_double(name, batch_first=True)
    if second != "stock":
        layer.norm2 = norm_in_double(second or name, batch_first=True)
    layer(batch()[0])
    return layer.eval()


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_pytorchs_fused_layer_does_not_replace_a_norm(name: str, norm_first: bool) -> None:
    x, mask = batch()
    x = x.transpose(0, 1)
    for layer in (layer_with(name, norm_first), layer_with(name, norm_first, "stock")):
        for given in (mask, None):
            with torch.no_grad():
                torch.testing.assert_close(layer(x, src_key_padding_mask=given), explicit(layer, x, given))
            torch.testing.assert_close(layer(x, src_key_padding_mask=given), explicit(layer, x, given))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
def test_a_norm_inside_pytorchs_encoder_takes_nested_tensors_at_evaluation(name: str) -> None:
    """``nn.TransformerEncoder`` makes them of sentences whose padding is at the end."""
    encoder = nn.TransformerEncoder(layer_with(name, norm_first=False), 1).eval()
    x, mask = batch()
    x = x.transpose(0, 1)
    expected = torch.zeros_like(x)
    for sentence, length in enumerate((~mask).sum(1)):  # instance sees its sentence without the padding
        alone = x[sentence : sentence + 1, :length]
        expected[sentence, :length] = explicit(encoder.layers[0], alone, None)[0]
    with torch.no_grad():
        y = encoder(x, src_key_padding_mask=mask)
    torch.testing.assert_close(y[~mask], expected[~mask])


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_the_output_of_a_nested_tensor_can_be_added_to_it(layout: torch.layout) -> None:
    x = torch.nested.nested_tensor([torch.ones(2, DIM), torch.ones(3, DIM)], layout=layout)
    total = x + build_norm("bn", DIM).eval()(x)
    assert [len(each) for each in total.unbind()] == [2, 3]


@pytest.mark.parametrize("name", ["ln", "rms", "group", "pnv"])
def test_a_subclass_of_tensor_is_normalized_by_pytorch(name: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(3, 2, DIM)
        assert build_norm(name, DIM)(x).shape == x.shape


@pytest.mark.parametrize("name", ["ln", "rms", "group"])
def test_transforms_of_torch_func_are_computed_by_pytorch(name: str) -> None:
    x, _ = batch()
    norm = norm_in_double(name)
    expected = x.clone().requires_grad_()
    norm(expected).square().sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda x: norm(x).square().sum())(x), expected.grad)
    torch.testing.assert_close(torch.vmap(norm)(x), norm(x))


def test_nested_tensors_are_refused_in_training() -> None:
    with pytest.raises(ValueError, match="nested tensors at evaluation only"):
        build_norm("bn", DIM)(torch.nested.nested_tensor([torch.ones(2, DIM), torch.ones(3, DIM)]))


def test_a_mask_for_a_nested_tensor_is_refused() -> None:
    x = torch.nested.nested_tensor([torch.ones(2, DIM), torch.ones(3, DIM)])
    with pytest.raises(ValueError, match="takes no mask"):
        build_norm("bn", DIM).eval()(x, torch.zeros(2, 3, dtype=torch.bool))


def test_token_norms_take_any_number_of_dimensions() -> None:
    x = torch.randn(2, 3, 4, DIM, dtype=torch.float64)
    for name in TOKEN_NORMS:
        for batch_first in (True, False):
            norm = norm_in_double(name, batch_first)
            torch.testing.assert_close(norm(x), norm(x.flatten(0, 2)).view_as(x))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("registered", [False, True])
def test_a_norm_may_call_the_forward_of_the_norm_that_it_extends(registered: bool, batch_first: bool) -> None:
    class Doubled(type(build_norm("instance", DIM))):  # type: ignore[misc]
        def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
            y: Tensor = super().forward(x, padding_mask)
            return 2 * y

    if registered:
        accept_masks(Doubled)
    x, mask = batch()
    norm = build_norm("instance", DIM).double()
    doubled = Doubled(DIM, norm.settings).double()
    doubled.batch_first = batch_first
    y = doubled(x.transpose(0, 1), mask).transpose(0, 1) if batch_first else doubled(x, mask)
    torch.testing.assert_close(y, 2 * norm(x, mask))
