"""Windows score every token once, and the perplexity equals that of fairseq's eval-lm."""

import math

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from hypothesis import given
from hypothesis import strategies as st

from normplugins.evaluation.loading import load_model
from normplugins.evaluation.perplexity import Windows, load_test_text, perplexity, text_logprobs
from normplugins.utils.errors import UserError
from tests.helpers.runs import eval_lm

SIZES = st.tuples(st.integers(0, 200), st.integers(1, 12), st.integers(0, 11), st.integers(1, 5)).filter(
    lambda sizes: sizes[2] < sizes[1]
)


@given(SIZES)
def test_windows_score_every_token_once_with_the_context_they_promise(sizes):
    tokens, segment, context, batch = sizes
    windows = Windows(segment, context, batch)
    seen = np.zeros(tokens, dtype=int)
    full = 0
    for start in windows.starts(tokens):
        end = min(start + segment, tokens)
        first = start + context if start else 0
        seen[first:end] += 1
        full += end - first if end - start == segment else 0
    assert (seen == 1).all()
    assert windows.tokens_in_full_windows(tokens) == full


def test_perplexity_worked_out_by_hand():
    logprobs = np.log(np.array([1 / 2, 1 / 4, 1 / 8], dtype=np.float32))
    value = perplexity(logprobs, Windows(2, 1), causal=False, partial="counted")
    assert (value["score"], value["tokens"]) == (pytest.approx(4, rel=1e-7), 3)
    assert value["nats"] == pytest.approx(math.log(4), rel=1e-7)
    assert value["signature"] == "level:word|tokens:3|segment:2|context:1|partial:counted|causal:no"


def test_sums_are_in_float64():
    logprobs = np.full(3_000_000, -0.1, dtype=np.float32)
    logprobs[0] = -(2.0**20)
    exact = (2.0**20 - 0.1 * 1 + 3_000_000 * 0.1) / 3_000_000
    assert perplexity(logprobs, Windows(8), True, "counted")["nats"] == pytest.approx(exact, rel=1e-7)


def test_a_token_without_probability_is_no_perplexity():
    with pytest.raises(UserError, match="1 tokens are not finite"):
        perplexity(np.array([-1, -np.inf], dtype=np.float32), Windows(8), True, "counted")


@pytest.mark.parametrize(
    ("windows", "words"), [(Windows(9), "at most 8 tokens"), (Windows(8, 8), "evaluate.context=8 leaves no token")]
)
def test_windows_that_do_not_fit(windows, words):
    with pytest.raises(UserError, match=words):
        windows.check(8)


def bin_dir(run):
    (path,) = (run.data_dir / "ptb").rglob("bin")
    return path


def token_by_token(run, segment, context):
    """The definition, word for word: each token alone, from the tokens of its window before it."""
    checkpoint = run.directory / "checkpoint_best.pt"
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(bin_dir(run))}
    )
    model.eval()
    words = (run.folder / "test.txt").read_text().splitlines()
    ids = [task.dictionary.eos()]
    ids += [index for line in words for index in [*(task.dictionary.index(w) for w in line.split()), ids[0]]]
    result, start = [], 0
    for place in range(len(ids) - 1):
        if place - start == segment:
            start += segment - context
        logits = model(torch.tensor([ids[start : place + 1]]))[0][0, -1]
        result.append(torch.log_softmax(logits.double(), -1)[ids[place + 1]].item())
    return np.array(result)


@pytest.mark.parametrize(("segment", "context"), [(8, 3), (20, 0), (500, 100)])
def test_equal_to_the_definition(segment, context, transformer_lm, made_up_text):
    (transformer_lm.folder / "test.txt").write_text((made_up_text / "ptb.test.txt").read_text())
    model, task = load_model(transformer_lm.directory / "checkpoint_best.pt", bin_dir(transformer_lm), cpu=True)
    inputs, targets = load_test_text(task, bin_dir(transformer_lm))
    windows = Windows(segment, context, 4)
    got = text_logprobs(model, inputs, targets, windows, windows.batches(len(targets)))
    expected = token_by_token(transformer_lm, segment, context)
    assert len(expected) == transformer_lm.record["corpus"]["counts"]["test"]["tokens"]
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_equal_to_fairseq_eval_lm(transformer_lm, tmp_path):
    bits = eval_lm(transformer_lm.directory / "checkpoint_best.pt", bin_dir(transformer_lm), tmp_path)
    assert transformer_lm.record["metrics"]["ppl"]["nats"] / math.log(2) == pytest.approx(bits, abs=1e-4)
