"""Every experiment composed with a norm by its name alone, and tiny models of each norm trained for two updates."""

import pytest
import torch
from fairseq import optim
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask

from normplugins.norms import known_norms, running_statistics
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, experiments, fairseq_config
from tests.helpers.language_models import SEGMENT, make_segments
from tests.helpers.models import make_batch, make_dictionary

NORMS = known_norms()
LANGUAGE_MODELS = ("custom_lm", "ptb", "wikitext103", "wikitext2")
TRANSLATIONS = sorted(set(experiments()) - set(LANGUAGE_MODELS))
# The other experiments differ from these in sizes, schedules and the count of statistics per update, which
# tests/norms/test_updates.py tests for each norm.
TRAINED = ("iwslt14", "ptb")
ARCHITECTURES = {"tensor": "tensor_transformer_lm", "transformer": "norm_transformer_lm"}
WORDS = 20
SIZES = {"layers": 1, "embed_dim": 16, "ffn_embed_dim": 16, "attention_heads": 2, "norm_groups": 2}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.torch.cuda.amp.autocast:FutureWarning")]


def with_norms(*experiments):
    """Return pairs of an experiment and a norm: all norms for experiments that are trained, and ``pn`` for others."""
    return [(each, norm) for each in experiments for norm in (NORMS if each in TRAINED else ("pn",))]


@pytest.mark.parametrize(("experiment", "norm"), with_norms(*TRANSLATIONS))
def test_translation(experiment, norm):
    config = compose_config(experiment, [f"norm={norm}"])
    model = config.model
    assert (model._name, model.encoder_norm, model.decoder_norm) == ("norm_transformer", norm, "ln")
    assert config.run_dir == f"runs/{config.experiment}/{norm}/seed1"
    check_settings_of_model(config, norm)
    if experiment in TRAINED:
        make_tiny(config)
        words, batch = make_dictionary(WORDS), make_batch(size=WORDS)
        target = batch.pop("target")
        inputs = {**batch, "src_lengths": batch["src_tokens"].ne(words.pad()).sum(1)}
        train_two_updates(config, TranslationTask(config.task, words, words), inputs, target)


@pytest.mark.parametrize(
    ("experiment", "norm", "architecture"),
    [
        *((*pair, "tensor") for pair in with_norms(*LANGUAGE_MODELS)),
        *(("ptb", norm, "transformer") for norm in ("bn", "pn")),
    ],
)
def test_language_model(experiment, norm, architecture):
    config = compose_config(experiment, [f"norm={norm}", f"architecture={architecture}"])
    if experiment != "custom_lm":  # whose corpus needs files
        check(config)
    assert (config.model._name, config.model.norm) == (ARCHITECTURES[architecture], norm)
    check_settings_of_model(config, norm)
    if experiment in TRAINED:
        make_tiny(config)
        config.task.tokens_per_sample = config.model.tokens_per_sample = SEGMENT
        config.model.adaptive_softmax_cutoff = config.model.adaptive_softmax_cutoff and "8,12"
        words, segments = make_dictionary(WORDS), make_segments(size=WORDS)
        source, target = segments[:, :-1].contiguous(), segments[:, 1:].contiguous()
        inputs = {"src_tokens": source, "src_lengths": torch.full((len(source),), SEGMENT)}
        task = LanguageModelingTask(config.task, words, words, targets=["future"])
        train_two_updates(config, task, inputs, target)


def check_settings_of_model(config, norm):
    """Assert that the model has the norm's settings; null stands for a default that ``config.norm`` shows."""
    settings = dict(config.norm)
    assert settings.pop("name") == norm
    assert all(config.model[f"norm_{key}"] in (None, value) for key, value in settings.items())


def make_tiny(config):
    for key in config.model:
        name = key.removeprefix("encoder_").removeprefix("decoder_")
        if name in SIZES and config.model[key] is not None:
            config.model[key] = SIZES[name]


def train_two_updates(config, task, inputs, target):
    """Train with the experiment's loss and optimizer: each parameter and statistic must change and be finite."""
    config = fairseq_config(config)
    torch.manual_seed(1)
    model, criterion = task.build_model(config.model), task.build_criterion(config.criterion)
    optimizer = optim.build_optimizer(config.optimizer, list(model.parameters()))
    optimizer.set_lr(0.01)
    words = int(target.ne(task.target_dictionary.pad()).sum())
    batch = {"net_input": inputs, "target": target, "ntokens": words, "nsentences": len(target)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for update in range(2):
        task.train_step(batch, model, criterion, optimizer, update)
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    learned = [*dict(model.named_parameters()), *running_statistics(model)]
    assert not [name for name in learned if torch.equal(before[name], after[name])]
