"""The baseline is what stock ``fairseq-train`` builds and trains, held to its own command line."""

import pytest
import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import normplugins
from benchmarks.stock import stock_model, stock_trainer
from normplugins.evaluation.tasks import run_task
from normplugins.runs.compose import compose_config, fairseq_config
from tests.helpers.runs import TINY

TRANSLATION = run_task("translation")
COMMAND = """
    nowhere --task translation --source-lang de --target-lang en --arch transformer_iwslt_de_en --share-all-embeddings
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --adam-betas (0.9,0.98)
    --weight-decay 0.0001 --clip-norm 0.0 --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 6
    --warmup-init-lr 1e-7 --dropout 0.1 --attention-dropout 0.1 --activation-dropout 0.1 --max-tokens 1500 --cpu
    --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 16
    --decoder-ffn-embed-dim 16 --encoder-attention-heads 2 --decoder-attention-heads 2
"""


@pytest.fixture(scope="module")
def dictionary():
    normplugins.register()
    made = Dictionary()
    for index in range(40):
        made.add_symbol(f"w{index}")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_three_updates_are_those_of_the_command_line_bit_for_bit(dictionary, before):
    flags = ["--encoder-normalize-before", "--decoder-normalize-before"] if before else []
    arguments = options.parse_args_and_arch(options.get_training_parser(), [*COMMAND.split(), *flags])
    theirs = convert_namespace_to_omegaconf(arguments)
    ours = fairseq_config(compose_config("demo", [*TINY, f"model.normalize_before={before}"]))
    trained = []
    for config in (theirs, ours):
        task = TRANSLATION.bare_task(config.task, dictionary)
        torch.manual_seed(1)
        if config is theirs:
            model, criterion = task.build_model(config.model), task.build_criterion(config.criterion)
            trainer = Trainer(config, task, model, criterion)
        else:
            trainer = stock_trainer(config, task)
        torch.manual_seed(2)
        for _ in range(3):
            trainer.train_step([TRANSLATION.dummy_batch(torch.randint(4, 44, (5, 7)))])
        trained.append(dict(trainer.model.named_parameters()))
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert ("encoder.layer_norm.weight" in trained[1]) == before


def test_at_the_published_size_it_has_stock_fairseqs_parameters_the_dead_ones_too(dictionary):
    config = fairseq_config(compose_config("iwslt14", ["hardware=cpu"]))
    with torch.device("meta"):  # sizes without numbers
        model = stock_model(config, TRANSLATION.bare_task(config.task, dictionary))
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found - 512 * len(dictionary) == 49_271_808 - 512 * 10_004
