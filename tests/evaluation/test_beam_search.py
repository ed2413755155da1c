import math
from argparse import Namespace
from functools import lru_cache

import pytest
import torch
from fairseq import search
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models import ARCH_CONFIG_REGISTRY
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import normplugins
from normplugins.evaluation import beam_search
from normplugins.evaluation.beam_search import BeamSearch, SequenceGenerator
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError
from tests.helpers.models import PAD, make_model, make_task, train


@lru_cache
def learned(seed: int, size: int) -> NormTransformer:
    """A model like one that has learned: its words differ in probability, and its sentences end sooner or later."""
    model = make_model(seed, make_task(size), share_all_embeddings=False).eval()
    with torch.no_grad():
        words = model.decoder.output_projection.weight.mul_(8)
        model.decoder.final_norm.bias += 0.5 * words[2]
    return model


def sources(seed: int, size: int, lengths: list[int]) -> dict:
    """Random sentences of these lengths, padded on the left as fairseq does."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        tokens[row, -length:] = torch.randint(4, size, (length,), generator=generator)
        tokens[row, -1] = 2
    return {"net_input": {"src_tokens": tokens, "src_lengths": torch.tensor(lengths)}}


def generate(kind: type, model: NormTransformer, sample: dict, size: int, **options) -> list:
    return kind([model], make_task(size).target_dictionary, **options).generate([model], sample)


def assert_same(ours: list, fairseqs: list) -> None:
    """The same hypotheses, in the same order but for scores that are equal within rounding."""
    assert len(ours) == len(fairseqs)
    for mine, theirs in zip(ours, fairseqs, strict=True):
        assert [h["tokens"].tolist() for h in mine] == [h["tokens"].tolist() for h in theirs]
        for one, other in zip(mine, theirs, strict=True):
            assert one.keys() == other.keys()
            for key in ("score", "positional_scores"):
                torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-4)


@pytest.mark.slow
@settings(deadline=None, max_examples=25, phases=(Phase.generate, Phase.shrink))
@given(
    seed=st.integers(0, 1),
    size=st.sampled_from([20, 32, 75]),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    beam=st.integers(1, 5),
    len_penalty=st.sampled_from([0.0, 0.6, 1.0, 1.4]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_len_a": st.sampled_from([0.0, 1.2]),
            "max_len_b": st.sampled_from([2, 5, 9]),
            "min_len": st.sampled_from([0, 2]),
            "normalize_scores": st.booleans(),
            "unk_penalty": st.sampled_from([0.0, 1.5, -3.0]),
            "temperature": st.sampled_from([1.0, 0.7]),
        },
    ),
)
def test_the_hypotheses_and_scores_of_fairseq(seed, size, lengths, beam, len_penalty, options):
    model, sample = learned(seed, size), sources(sum(lengths), size, lengths)
    options = {"max_len_b": 12} | options | {"beam_size": beam, "len_penalty": len_penalty}
    found = [generate(kind, model, sample, size, **options) for kind in (BeamSearch, SequenceGenerator)]
    assert_same(*found)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["ln", "pn", "weight", "bn_released", "rbn", "un"])
def test_a_model_trains_on_after_a_search_on_what_it_found_too(norm):
    model = make_model(decoder_norm=norm, encoder_norm=norm).eval()
    sample = sources(1, 20, [3, 8, 5])
    ((first, *_), *_) = generate(BeamSearch, model, sample, 20, beam_size=2, max_len_b=5)
    target = first["tokens"][None]
    logits, _ = train(model)(sample["net_input"]["src_tokens"][:1], None, target.roll(1, dims=1))
    (logits.log_softmax(-1).gather(2, target[..., None]).flatten() * first["positional_scores"]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_translations_begin_with_the_given_token():
    model, words, sample = learned(3, 60), make_task(60).target_dictionary, sources(3, 60, [4, 6, 9])
    found = [
        kind([model], words, beam_size=3, max_len_b=9).generate([model], sample, bos_token=7)
        for kind in (BeamSearch, SequenceGenerator)
    ]
    assert_same(*found)
    other = generate(BeamSearch, model, sample, 60, beam_size=3, max_len_b=9)
    assert [h["score"] for hs in other for h in hs] != [h["score"] for hs in found[0] for h in hs]


def test_many_sentences_that_end_at_different_steps():
    model, sample = learned(3, 60), sources(3, 60, [1 + index % 11 for index in range(80)])
    options = {"beam_size": 5, "max_len_a": 1.5, "max_len_b": 10}
    ours, fairseqs = (generate(kind, model, sample, 60, **options) for kind in (BeamSearch, SequenceGenerator))
    assert_same(ours, fairseqs)
    assert len({max(len(hypothesis["tokens"]) for hypothesis in hypotheses) for hypotheses in ours}) > 8
    assert all(len(hypotheses) == 5 for hypotheses in ours)


def test_fairseq_handles_everything_else(monkeypatch):
    model, task, sample = learned(0, 30), make_task(30), sources(0, 30, [4, 6])
    words, prefix = task.target_dictionary, torch.tensor([[7], [9]])

    def prefixed(generator):
        return generator([model], words, beam_size=2).generate([model], sample, prefix_tokens=prefix)

    cases = (
        lambda kind: kind([model], words, beam_size=2, no_repeat_ngram_size=2).generate([model], sample),
        lambda kind: kind([model], words, beam_size=2, tokens_to_suppress=["w5"]).generate([model], sample),
        lambda kind: kind([model, learned(1, 30)], words, beam_size=2).generate([model], sample),
        lambda kind: kind([model], words, beam_size=20, max_len_b=4).generate([model], sample),
        lambda kind: kind([model], words, beam_size=2, match_source_len=True).generate([model], sample),
        lambda kind: kind(
            [model], words, beam_size=2, search_strategy=search.DiverseSiblingsSearch(words, 0.5)
        ).generate([model], sample),
        prefixed,
    )
    expected = [case(SequenceGenerator) for case in cases]
    monkeypatch.setattr(beam_search, "DecodingState", None)  # what our own search cannot do without
    for case, fairseqs in zip(cases, expected, strict=True):
        assert_same(case(BeamSearch), fairseqs)


@pytest.mark.slow
def test_fairseqs_tasks_build_it_and_give_other_models_fairseqs_own():
    normplugins.register()
    task, sample = make_task(), sources(0, 20, [4, 6])
    assert isinstance(task.build_generator([make_model()], GenerationConfig(beam=3)), BeamSearch)
    arguments = Namespace(encoder_layers=1, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16)
    ARCH_CONFIG_REGISTRY["transformer_iwslt_de_en"](arguments)
    stock = task.build_model(Namespace(**vars(arguments), arch="transformer_iwslt_de_en")).eval()
    generator = task.build_generator([stock], GenerationConfig(beam=3, max_len_b=6))
    assert_same(torch.jit.script(generator)(sample), task.inference_step(generator, [stock], sample))


def test_a_model_without_a_finite_probability_is_named():
    model = make_model(0, make_task(30)).eval()
    with torch.no_grad():
        model.decoder.output_projection.weight.fill_(math.nan)
    with pytest.raises(UserError, match="no finite probability"):
        generate(BeamSearch, model, sources(0, 30, [4]), 30, beam_size=2, max_len_b=5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beam_size": 2, "min_len": 5}, "maximum length of a translation, 3 tokens, is less than the minimum, 5"),
        ({"beam_size": 0}, "a beam of 0: must be at least 1"),
    ],
)
def test_options_that_allow_no_translation_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        generate(BeamSearch, learned(0, 30), sources(0, 30, [4]), 30, max_len_b=3, **options)


def test_half_precision():
    model = make_model(2, make_task(40)).eval().bfloat16()
    found = generate(BeamSearch, model, sources(2, 40, [4, 6]), 40, beam_size=3, max_len_b=9)
    assert [len(hypotheses) for hypotheses in found] == [3, 3]
    assert all(h["score"].dtype == torch.float32 for hypotheses in found for h in hypotheses)
