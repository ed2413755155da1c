"""Another norm in the place of each LayerNorm and RMSNorm of a model."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from normplugins.norms import running_statistics, swap_norms
from tests.helpers.norms import TOKEN_NORMS
from tests.helpers.swap import DIM, batch, encoder, hugging_face, swap


@contextmanager
def unfused() -> Iterator[None]:
    """Switch PyTorch's fused layers off."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize(("batch_first", "norm_first"), [(True, False), (False, True)])
@pytest.mark.parametrize("name", ["pn", "instance"])  # at evaluation, only instance gets the mask
def test_pytorchs_encoder_computes_the_new_norm_in_evaluation(name: str, batch_first: bool, norm_first: bool) -> None:
    model = encoder(batch_first, norm_first)
    x, mask = batch()
    x, padding = (x, mask) if batch_first else (x.transpose(0, 1), mask.t())
    swap(model, name)
    model(x, src_key_padding_mask=mask)
    model.eval()
    with torch.no_grad():
        y, full = model(x, src_key_padding_mask=mask), model(x)
        with unfused():
            torch.testing.assert_close(y, model(x, src_key_padding_mask=mask))
            torch.testing.assert_close(full, model(x))
        other = model(x.masked_fill(padding[..., None], 99.0), src_key_padding_mask=mask)
    torch.testing.assert_close(other[~padding], y[~padding])


def test_only_the_chosen_names_are_replaced() -> None:
    model = encoder()
    report = swap_norms(model, "bn", only=lambda name: name.startswith("layers.0."))
    assert set(report.replaced) == {"layers.0.norm1", "layers.0.norm2"}
    assert not report.left
    assert type(model.layers[1].norm1) is type(model.norm) is nn.LayerNorm


@pytest.mark.parametrize("name", ["ln", "rms"])
def test_the_same_norm_changes_nothing(name: str) -> None:
    model = encoder()
    if name == "rms":
        for layer in model.layers:
            layer.norm1, layer.norm2 = nn.RMSNorm(DIM, 1e-3).double(), nn.RMSNorm(DIM, 1e-3).double()
        model.norm = None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x, mask = batch()
    with unfused():
        expected = model(x, src_key_padding_mask=mask)
    report = swap_norms(model, name)
    torch.testing.assert_close(model(x, src_key_padding_mask=mask), expected)
    torch.testing.assert_close(model.state_dict(), before)
    assert all(type(module) not in (nn.LayerNorm, nn.RMSNorm) for module in model.modules())
    kept = "kept weight, bias, eps" if name == "ln" else "kept weight, eps"
    assert {*report.replaced.values()} == {kept}


def test_the_report_says_what_was_replaced_and_kept() -> None:
    model = encoder(layers=1)
    model.norm = nn.LayerNorm(DIM, eps=1e-3, bias=False)
    assert "layers.0.norm1 and 2 more: kept eps" in str(swap_norms(model, "scale"))
    model = encoder(layers=1)
    model.norm = nn.LayerNorm(DIM, eps=1e-3, bias=False, dtype=torch.bfloat16)
    model.norm.weight.requires_grad_(False)
    report = swap_norms(model.eval(), "pn", groups=2)
    mask = "padding mask: src_key_padding_mask of the model"
    assert str(report).splitlines() == [
        f"layers.0.norm1 and 1 more: kept weight, bias, eps; {mask}",
        f"norm: kept weight, eps; {mask}",
    ]
    assert (model.norm.eps, model.norm.settings.groups, model.norm.batch_first) == (1e-3, 2, True)
    assert (model.norm.weight.dtype, model.norm.weight.requires_grad, model.norm.training) == (
        torch.bfloat16, False, False,
    )  # fmt: skip
    assert swap_norms(encoder(), "pn", eps=0.5).replaced["norm"].startswith("kept weight, bias;")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        tiny = nn.Sequential(nn.RMSNorm(DIM, dtype=dtype))
        x = 1e-3 * torch.randn(5, DIM, dtype=dtype)
        before = tiny(x)
        swap_norms(tiny, "rms")
        assert torch.allclose(tiny(x), before, rtol=1e-2), "PyTorch's RMSNorm without eps has one of its own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("instance", "do not use it in a model that predicts the next token"),
        ("weight", r"call wrap_linears\(sublayer\) of each norm"),
        ("rbn", "add loss_term of each norm to every batch's loss"),
    ],
)
def test_a_norm_that_needs_more_than_a_swap_warns(name: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        swap_norms(encoder(), name)


class GroupedRMSNorm(nn.Module):
    """Not what its name says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class GatedLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return super().forward(x) * gate


def test_classes_that_compute_something_else_are_left() -> None:
    model = nn.ModuleDict({"grouped": GroupedRMSNorm(), "gated": GatedLayerNorm(DIM), "image": nn.LayerNorm((4, 4))})
    with pytest.raises(
        ValueError, match="ModuleDict has no LayerNorm or RMSNorm inside that can be replaced; grouped: "
    ):
        swap_norms(model, "pn")
    with torch.device("meta"), pytest.raises(ValueError, match=r"grouped: .* cannot be tested on the meta device"):
        swap_norms(nn.ModuleDict({"grouped": GroupedRMSNorm()}), "pn")
    with pytest.raises(ValueError, match="Linear has no LayerNorm"):
        swap_norms(nn.Linear(2, 2), "pn")
    model["plain"] = nn.LayerNorm(DIM)
    report = swap_norms(model, "pn")
    assert [*report.replaced] == ["plain"]
    assert report.left["grouped"] == "GroupedRMSNorm computes neither LayerNorm nor RMSNorm of a token's channels"
    assert "GatedLayerNorm cannot be called with x alone: " in report.left["gated"]
    assert report.left["image"] == "it normalizes over 2 dimensions"


def test_a_shared_norm_stays_shared_and_an_error_changes_nothing() -> None:
    model = encoder()
    model.layers[1].norm1 = model.layers[0].norm1
    before = list(model.modules())
    for settings, message in (({"groups": 3}, "16 channels cannot be split into 3"), ({"momentum": 0.5}, "momentum")):
        with pytest.raises(ValueError, match=message):
            swap_norms(model, "pn", **settings)
    assert list(model.modules()) == before
    report = swap_norms(model, "pn")
    assert len(report.replaced) == 4
    assert model.layers[1].norm1 is model.layers[0].norm1


@pytest.mark.slow
def test_a_swapped_encoder_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    model = encoder(layers=1)
    swap_norms(model, "bn")
    compiled = copy.deepcopy(model)
    compiled.compile(fullgraph=True, backend="eager")
    x, mask = batch()
    for _ in range(2):
        torch.testing.assert_close(compiled(x, src_key_padding_mask=mask), model(x, src_key_padding_mask=mask))
        torch.testing.assert_close(running_statistics(compiled), running_statistics(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "norms"), [("Bert", "ln", 5), ("Llama", "rms", 5), ("Gemma", "rms", 5), ("T5", "rms", 9)]
)
def test_hugging_face_models_compute_the_same_with_their_own_norm(kind: str, name: str, norms: int) -> None:
    more = {
        "T5": {"d_model": DIM, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "Gemma": {"head_dim": 8, "num_key_value_heads": 2},  # it stores its weights minus 1
    }
    model = hugging_face(kind, **more.get(kind, {}))
    for p in model.parameters():
        p.data.add_(torch.rand_like(p) / 4)
    tokens = torch.arange(1, 11).view(2, 5)
    inputs = {"input_ids": tokens, **({"decoder_input_ids": tokens} if kind == "T5" else {})}
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        report = swap_norms(model, name)
        assert len(report.replaced) == norms
        assert all("weight" in kept for kept in report.replaced.values())
        torch.testing.assert_close(model(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TOKEN_NORMS)
def test_token_norms_need_no_mask(name: str) -> None:
    assert "padding" not in str(swap(encoder(), name))
