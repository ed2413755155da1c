from argparse import Namespace

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import normplugins
from normplugins.evaluation import sequence_scorer
from normplugins.evaluation.sequence_scorer import Scorer, SequenceScorer
from tests.helpers.models import CAUSAL_NORMS, PAD, make_batch, make_model, make_task, train


def pairs(lengths: list[tuple[int, int]], size: int = 20, left_pad_target: bool = False) -> dict:
    """Random pairs of sentences of these lengths, source padded on the left, as fairseq hands them to a scorer."""
    generator = torch.Generator().manual_seed(len(lengths))
    rows = len(lengths)
    source = torch.full((rows, max(length for length, _ in lengths)), PAD)
    target = torch.full((rows, max(length for _, length in lengths)), PAD)
    previous = target.clone()
    for row, (of_source, of_target) in enumerate(lengths):
        source[row, -of_source:] = torch.randint(4, size, (of_source,), generator=generator)
        words = torch.randint(4, size, (of_target,), generator=generator)
        words[-1] = 2
        at = slice(-of_target, None) if left_pad_target else slice(of_target)
        target[row, at], previous[row, at] = words, words.roll(1)
    inputs = {"src_tokens": source, "src_lengths": torch.tensor([length for length, _ in lengths])}
    return {"target": target, "net_input": inputs | {"prev_output_tokens": previous}}


def scores(kind: type, models: list, sample: dict, size: int = 20, **options) -> list:
    return kind(make_task(size).target_dictionary, **options).generate(models, sample)


def assert_same(ours: list, fairseqs: list) -> None:
    for (mine,), (theirs,) in zip(ours, fairseqs, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["tokens"].tolist() == theirs["tokens"].tolist()
        for key in ("score", "positional_scores"):
            torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=2e-5)
        assert mine["attention"] is theirs["attention"] is None
        assert mine["alignment"] is theirs["alignment"] is None


@settings(deadline=None, max_examples=20, phases=(Phase.generate, Phase.shrink))
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=7),
    pre=st.booleans(),
    size=st.sampled_from([20, 75]),
    rows=st.sampled_from([3, 1024]),
)
def test_the_scores_of_fairseq(lengths, pre, size, rows):
    model = make_model(1, make_task(size), normalize_before=pre).eval()
    sample = pairs(lengths, size)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sequence_scorer, "ROWS", rows)
        assert_same(scores(Scorer, [model], sample, size), scores(SequenceScorer, [model], sample, size))


@pytest.mark.slow
@pytest.mark.parametrize("norm", CAUSAL_NORMS)
def test_with_every_norm_and_the_model_trains_on(norm):
    model = train(make_model(decoder_norm=norm, encoder_norm=norm))
    sample = pairs([(3, 5), (8, 2), (1, 9)])
    assert_same(scores(Scorer, [model], sample), scores(SequenceScorer, [model], sample))
    train(model, 1)


def test_fairseq_handles_everything_else(monkeypatch):
    arguments = Namespace(encoder_layers=1, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16)
    ARCH_CONFIG_REGISTRY["transformer_iwslt_de_en"](arguments)
    stock = make_task().build_model(Namespace(**vars(arguments), arch="transformer_iwslt_de_en")).eval()
    model, sample = make_model().eval(), pairs([(3, 5), (8, 2)])
    cases = (
        ([model, make_model(1).eval()], sample),
        ([model], pairs([(3, 5), (8, 2)], left_pad_target=True)),
        ([stock], sample),
    )
    expected = [scores(SequenceScorer, *case) for case in cases]
    monkeypatch.setattr(sequence_scorer, "VarlenLayout", None)  # what our own scoring cannot do without
    for case, fairseqs in zip(cases, expected, strict=True):
        for (mine,), (theirs,) in zip(scores(Scorer, *case), fairseqs, strict=True):
            assert torch.equal(mine["positional_scores"], theirs["positional_scores"])


def test_fairseqs_tasks_build_it():
    normplugins.register()
    task, model = make_task(), make_model().eval()
    generator = task.build_generator([model], Namespace(score_reference=True, print_alignment=None))
    assert isinstance(generator, Scorer)
    batch = make_batch()
    inputs = {name: batch[name] for name in ("src_tokens", "prev_output_tokens")} | {"src_lengths": None}
    found = task.inference_step(generator, [model], {"target": batch["target"], "net_input": inputs})
    logits, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
    of_words = logits.log_softmax(-1).gather(2, batch["target"][..., None]).squeeze(2)
    for (only,), row, words in zip(found, of_words, batch["target"], strict=True):
        torch.testing.assert_close(only["positional_scores"], row[words.ne(PAD)].detach(), rtol=0, atol=1e-5)


def test_half_precision():
    model, sample = make_model().eval(), pairs([(3, 5), (8, 2)])
    exact = scores(Scorer, [model], sample)
    for (half,), (single,) in zip(scores(Scorer, [model.bfloat16()], sample), exact, strict=True):
        assert half["score"].dtype == torch.float32
        torch.testing.assert_close(half["score"], single["score"], rtol=0.03, atol=0)
