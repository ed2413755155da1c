"""The padding masks that reach the norms of a model whose LayerNorms and RMSNorms were swapped."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

from normplugins.norms import build_norm, running_statistics, swap_norms, using_padding_mask
from tests.helpers.compiler import needs_torch_compile
from tests.helpers.norms import BATCH_NORMS
from tests.helpers.swap import DIM, batch, encoder, hugging_face, swap


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


@needs_torch_compile
def test_layers_that_are_compiled_one_by_one_get_the_mask_of_the_whole_model() -> None:
    x, mask = batch()
    eager = encoder(norm_first=True)
    swap_norms(eager, "bn")
    compiled = copy.deepcopy(eager)
    for layer in compiled.layers:
        layer.compile(backend="eager")
    for model in (eager, compiled):
        model(x, src_key_padding_mask=mask)
    torch.testing.assert_close(running_statistics(compiled), running_statistics(eager))


def test_a_subclass_of_a_norm_gets_the_mask_too() -> None:
    """A parametrization makes a new class, and so does FSDP2."""
    x, mask = batch()
    norm, expected = (build_norm("bn", DIM, batch_first=True).double() for _ in range(2))
    register_parametrization(norm, "weight", nn.Identity())
    with using_padding_mask(norm, mask):
        norm(x)
    expected(x, mask)
    torch.testing.assert_close(running_statistics(norm), running_statistics(expected))


def test_replicas_of_data_parallel_are_refused() -> None:
    x, mask = batch()
    model = encoder(layers=1)
    swap_norms(model, "bn")
    replica = model._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match="use DistributedDataParallel"):
        replica(x, src_key_padding_mask=mask)


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
