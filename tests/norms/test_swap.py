"""Another norm in the place of each LayerNorm and RMSNorm of a model, and the padding masks that reach it."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normplugins.norms import build_norm, running_statistics, swap_norms, using_padding_mask
from tests.helpers.norms import BATCH_NORMS, TOKEN_NORMS

DIM = 16


def encoder(batch_first: bool = True, norm_first: bool = False, layers: int = 2) -> nn.TransformerEncoder:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(DIM, 2, 32, 0.0, batch_first=batch_first, norm_first=norm_first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # which settings use no nested tensors
        model = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(DIM)).double()
    for p in model.parameters():
        p.data.add_(torch.rand_like(p) / 4)
    return model


def swap(model: nn.Module, name: str, **settings: Any) -> Any:
    """``swap_norms`` without the warnings for some norms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return swap_norms(model, name, **settings)


def batch() -> tuple[Tensor, Tensor]:
    """x (B, T, C) and its padding mask (B, T)."""
    x = torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = mask[2, 1:] = True
    return x, mask


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
        ("instance", "it is not for a model that predicts the next token"),
        ("weight", r"call wrap_linears\(sublayer\) of each norm"),
        ("rbn", "add loss_term of each norm to every batch's loss"),
    ],
)
def test_a_norm_that_needs_more_than_a_swap_warns(name: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        swap_norms(encoder(), name)


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_padding_of_the_models_own_mask_is_not_counted(name: str) -> None:
    """What stands at padding has no effect on the statistics, whether the mask is boolean, by position or added."""
    x, mask = batch()
    other = x.masked_fill(mask[..., None], 99.0)
    added = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(mask, -torch.inf)
    statistics: list[dict[str, Tensor]] = []
    for arguments, keywords in (
        ((x,), {"src_key_padding_mask": mask}),
        ((other, None, mask), {}),
        ((other,), {"src_key_padding_mask": added}),
    ):
        model = encoder(layers=1, norm_first=True)
        swap(model, name)
        model(*arguments, **keywords)
        statistics.append({key: value.clone() for key, value in running_statistics(model).items()})
        model(x)  # the mask belongs to one call
        assert any((value != statistics[-1][key]).any() for key, value in running_statistics(model).items())
    torch.testing.assert_close(statistics[1:], statistics[:1] * 2)


def test_each_norm_gets_the_mask_of_its_own_sequence() -> None:
    model = nn.Transformer(DIM, 2, 1, 1, 32, 0.0, batch_first=True).double()
    report = swap_norms(model, "bn")
    assert report.replaced["encoder.layers.0.norm1"].endswith("src_key_padding_mask of encoder")
    assert report.replaced["decoder.norm"].endswith("tgt_key_padding_mask of decoder")
    x, mask = batch()
    for source, target in ((x, x[:, :4]), (x.masked_fill(mask[..., None], 9.0), x[:, :4])):
        other = copy.deepcopy(model)  # with hooks of its own
        other(source, target, src_key_padding_mask=mask, tgt_key_padding_mask=mask[:, :4])
        found = running_statistics(other)
        if source is x:
            expected = {key: value.clone() for key, value in found.items()}
    torch.testing.assert_close(found, expected)
    assert not any(value.any() for key, value in running_statistics(model).items() if key.endswith("mean"))


class Checkpointed(nn.TransformerEncoderLayer):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = checkpoint(super().forward, *args, **kwargs, use_reentrant=False)
        return y


def test_a_checkpointed_layer_is_recomputed_with_the_mask_of_the_context() -> None:
    """Also after another forward with another mask, which failed; outside the context, an error says what to do."""
    gradients = []
    x, mask = batch()
    for layer in (nn.TransformerEncoderLayer, Checkpointed):
        torch.manual_seed(1)
        stack = nn.TransformerEncoder(layer(DIM, 2, 32, 0.0, batch_first=True, dtype=torch.float64), 2)
        swap_norms(stack, "bn")
        stack(x).sum().backward()  # without padding, there is no mask to miss
        with using_padding_mask(stack, mask):
            loss = stack(x, src_key_padding_mask=mask)[~mask].square().sum()
            with pytest.raises(AssertionError, match="embedding dimension"):
                stack.eval()(x[..., 1:], src_key_padding_mask=~mask)
            stack.train()
            loss.backward()
        gradients.append({key: p.grad for key, p in stack.named_parameters()})
    torch.testing.assert_close(*gradients)
    loss = stack(x, src_key_padding_mask=mask).sum()
    with pytest.raises(RuntimeError, match="run forward and backward inside using_padding_mask"):
        loss.backward()


class Reader(nn.Module):
    """A model of text and another input, with the mask of the text alone."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.text = nn.LayerNorm(DIM), Sentences()

    def forward(self, pixel_values: Tensor, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.other(pixel_values).sum() + self.text(x, attention_mask).sum()


class Sentences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


def test_the_mask_of_a_text_is_not_given_to_norms_of_another_input() -> None:
    model = Reader()
    report = swap_norms(model, "bn", batch_first=True)
    assert report.replaced["text.norm"].endswith("padding mask: attention_mask of text")
    assert report.replaced["other"].endswith("padding counts as tokens outside using_padding_mask")
    model.eval()(torch.ones(2, 5, DIM), torch.ones(2, 5, DIM), torch.ones(2, 5))  # no norm reads a mask at evaluation


class Tagger(nn.Module):
    """A model without a mask argument that is known, with a norm of its own beside an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(DIM).double()
        self.encoder = encoder(layers=1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(x.size(1)) >= lengths[:, None]
        y: Tensor = self.encoder(self.input_norm(x), src_key_padding_mask=mask)
        return y


def test_norms_without_a_mask_are_named_and_take_one_from_the_context() -> None:
    x, mask = batch()
    model = Tagger()
    assert "input_norm: kept weight, bias, eps; padding counts as tokens" in str(swap_norms(model, "bn"))
    expected = build_norm("bn", DIM, batch_first=True).double()
    expected(x, mask)
    for masks in ({"padding_mask": mask}, {"attention_mask": (~mask).long()}):
        fresh = copy.deepcopy(model)
        with using_padding_mask(fresh, **masks):
            fresh(x, (~mask).sum(1))
        torch.testing.assert_close(fresh.input_norm.running_var, expected.running_var)
    with pytest.raises(ValueError, match="does not fit"), using_padding_mask(model, mask.t()):
        model(x, (~mask).sum(1))
    model(x, (~mask).sum(1))  # the context has ended
    expected = build_norm("bn", DIM, batch_first=True).double()
    expected(x)
    torch.testing.assert_close(model.input_norm.running_var, expected.running_var)


def test_a_layout_that_is_not_known_is_a_parameter() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(DIM).double()

        def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
            y: Tensor = self.norm(x)
            return y

    x, mask = batch()
    for name in ("bn", "instance"):
        with pytest.raises(ValueError, match="not known; pass batch_first=True or batch_first=False"):
            swap(Model(), name)
    swap_norms(Model(), "rms")
    for batch_first, given in ((True, x), (False, x.transpose(0, 1))):
        model = Model()
        swap_norms(model, "bn", batch_first=batch_first)
        model(given, padding_mask=mask)
        with pytest.raises(ValueError, match="does not fit"):
            model(given.transpose(0, 1), padding_mask=mask)
    rows = nn.Sequential(nn.Linear(DIM, DIM), nn.LayerNorm(DIM)).double()
    swap_norms(rows, "bn")
    rows(x)
    with pytest.raises(ValueError, match="pass batch_first to swap_norms"), using_padding_mask(rows, mask):
        rows(x)


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


def hugging_face(kind: str, **settings: Any) -> Any:
    """A tiny model of random weights, from its config."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    sizes = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, pad_token_id=0, **sizes, **settings)
    return transformers.AutoModel.from_config(config).double().eval()


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


@pytest.mark.slow
def test_hugging_faces_attention_mask_reaches_the_norms() -> None:
    model = hugging_face("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    report = swap_norms(model, "bn")
    assert all(kept.endswith("attention_mask of the model") for kept in report.replaced.values())
    tokens, mask = torch.arange(1, 11).view(2, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    statistics = []
    for given in (tokens, tokens.where(mask.bool(), 0)):
        other = copy.deepcopy(model).train()
        other(input_ids=given, attention_mask=mask)
        statistics.append(running_statistics(other))
    torch.testing.assert_close(*statistics)
    with pytest.raises(ValueError, match="does not fit"):  # masks of attention scores are another thing
        model.train()(tokens, attention_mask=torch.ones(2, 1, 5, 5, dtype=torch.long))


@pytest.mark.slow
def test_a_swapped_language_model_generates_with_its_cache() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=DIM, n_layer=2, n_head=2, vocab_size=40, bos_token_id=1, eos_token_id=39)
    model = transformers.GPT2LMHeadModel(config).eval()
    swap_norms(model, "pn")
    tokens, mask = torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    model.train()(input_ids=tokens, attention_mask=mask)
    model.eval()
    settings = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    cached, whole = (model.generate(tokens, use_cache=cache, **settings) for cache in (True, False))
    assert cached.tolist() == whole.tolist()


@pytest.mark.parametrize("name", TOKEN_NORMS)
def test_token_norms_need_no_mask(name: str) -> None:
    assert "padding" not in str(swap(encoder(), name))
