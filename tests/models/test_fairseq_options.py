"""fairseq's options with our models: each works as for fairseq's transformer, or is refused."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import models, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.modules.quantization.pq.modules import PQLinear
from fairseq.quantization_utils import Quantizer
from fairseq.trainer import Trainer

import normplugins
from normplugins.utils.errors import UserError
from tests.helpers.models import loss_of, make_batch, make_dictionary, make_model

TRANSLATION = ["data", "--arch", "norm_transformer", "--source-lang", "de", "--target-lang", "en"]
LANGUAGE_MODELING = ["data", "--task", "language_modeling", "--tokens-per-sample", "8", "--arch", "norm_transformer_lm"]
PAIRS = [
    ("transformer", "norm_transformer", "translation"),
    ("transformer_lm", "norm_transformer_lm", "language_modeling"),
    ("transformer_lm", "tensor_transformer_lm", "language_modeling"),
]
SIZES = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("layers=2", "embed-dim=8")]
QUANTIZATION = r"""
layers_to_quantize: ['decoder\.layers\.0\..*fc1']
n_centroids: {Linear: {key: in_features, value: {'*': 4}}}
block_sizes: {Linear: {key: fuzzy_name, value: {fc: 8}}}
"""


@pytest.fixture(scope="module", autouse=True)
def registered():
    normplugins.register()


def options_of(arch, task):
    parser = options.get_training_parser()
    arguments = ["data", "--task", task, "--arch", arch]
    options.parse_args_and_arch(
        parser, [*arguments, "--tokens-per-sample", "8"] if task == "language_modeling" else arguments
    )
    return {name: action for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize(("stock", "ours", "task"), PAIRS)
def test_an_option_of_fairseqs_transformer_has_the_same_form_or_is_unknown(stock, ours, task):
    theirs, known = options_of(stock, task), options_of(ours, task)
    shared = theirs.keys() & known.keys()
    assert {"--dropout", "--activation-fn", "--checkpoint-activations"} < shared
    for name in shared:
        one, other = theirs[name], known[name]
        assert (one.dest, one.nargs) == (other.dest, other.nargs), name
    # argparse takes an unknown option for the longer one that it begins.
    assert not [name for name in theirs.keys() - shared if any(longer.startswith(name) for longer in known)]


def prepare(arguments):
    """The config of a training command, and its task on a dictionary of 20 words, without a corpus."""
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    dictionary = make_dictionary(20)
    return config, tasks.TASK_REGISTRY[config.task._name](config.task, dictionary, dictionary)


def build(arguments):
    config, task = prepare(arguments)
    with torch.device("meta"):
        return models.build_model(config.model, task)


def trainer(precision, *norm):
    config, task = prepare([*TRANSLATION, *norm, "--cpu", *SIZES])
    config.common[precision] = True  # not by --bf16, which in fairseq 0.12.2 asks for a TPU
    return Trainer(config, task, models.build_model(config.model, task), torch.nn.Identity())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "norm"),
    [
        ("fp16", ("--encoder-norm", "pn")),
        ("amp", ("--encoder-norm", "[ln,un]")),
        ("fp16", ("--decoder-norm", "{attention:ln,ffn:ln,final:mabn}")),
    ],
)
def test_a_scaled_loss_is_refused_with_a_statistic_of_gradients(precision, norm):
    with pytest.raises(UserError, match=rf"--{precision} changes the scale of the loss, and (pn|un|mabn) keeps"):
        trainer(precision, *norm)


@pytest.mark.parametrize(("precision", "norm"), [("fp16", "bn"), ("amp", "ln"), ("bf16", "pn")])
def test_other_half_precision_is_accepted(precision, norm):
    model = trainer(precision, "--encoder-norm", norm).get_model()
    assert (next(model.parameters()).dtype == torch.float32) == (precision == "amp")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        [*TRANSLATION, "--load-alignments"],
        [*LANGUAGE_MODELING, "--add-bos-token"],
        [*LANGUAGE_MODELING, "--max-target-positions", "8"],
    ],
    ids=lambda arguments: arguments[-1],
)
def test_an_option_of_the_task_that_the_model_would_ignore_is_refused(arguments):
    name = next(word for word in reversed(arguments) if word.startswith("--"))
    with pytest.raises(UserError, match=rf"\({name}\)"):
        build(arguments)


def generation(*arguments):
    parser = options.get_generation_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["data", "--path", "x.pt", *arguments]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--print-alignment", "soft"],
        ["--replace-unk"],
        ["--task", "language_modeling", "--add-bos-token"],
    ],
    ids=" ".join,
)
def test_an_option_of_generation_that_the_model_would_ignore_is_refused(arguments):
    model = build(LANGUAGE_MODELING) if "language_modeling" in arguments else make_model()
    name = next(word for word in reversed(arguments) if word.startswith("--"))
    with pytest.raises(UserError, match=rf"\({name}\)"):
        model.prepare_for_inference_(generation(*arguments))


def test_the_other_options_of_generation_are_taken():
    make_model().prepare_for_inference_(generation("--beam", "3", "--sampling", "--nbest", "3", "--lenpen", "0.6"))


def test_a_quantized_layer_has_the_configured_number_of_blocks(tmp_path):
    model = make_model().eval()
    layer = model.decoder.layers[0].feed_forward.sublayer
    (tmp_path / "q.yaml").write_text(QUANTIZATION)
    quantizer = Quantizer(str(tmp_path / "q.yaml"), max_epoch=1, max_update=0)
    quantizer.set_trainer(SimpleNamespace(get_model=lambda: model, reinitialize=lambda: None))
    quantizer.begin_epoch(1)
    assert isinstance(layer.fc1, PQLinear)
    assert len(layer.fc1.weight.view(-1, 8).unique(dim=0)) <= 4
    assert loss_of(model, make_batch()).isfinite()
