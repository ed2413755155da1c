"""Composing: every experiment with every norm, what is unknown or of the wrong type, and the names of cells."""

import pytest

from normplugins.corpora import corpus_config
from normplugins.models.check import MODELS
from normplugins.models.config import NormTransformerConfig
from normplugins.norms import known_norms
from normplugins.runs.cell import changed_settings, flatten
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, expand_sweep
from normplugins.runs.record import without_absolute_paths
from normplugins.utils.errors import UserError

NORMS = known_norms()


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "architecture"), [("ptb", "transformer"), ("wikitext103", "tensor")])
def test_a_language_model_is_chosen_by_architecture_and_its_schedule_by_budget(experiment, architecture):
    for budget in ("full", "cpu"):
        config = compose_config(experiment, ["norm=pn", f"architecture={architecture}", f"budget={budget}"])
        check(config)
        model = MODELS[config.model._name].resolve(config.model)
        assert model.build_norm("norm").groups == (1 if architecture == "tensor" else 4)
        tenth, learning_rate = config.optimization.max_update // 10, config.lr_scheduler.warmup_updates
        assert config.norm.warmup_updates == (tenth if budget == "full" else learning_rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reading", "pre_norm", "causal"), [("code", False, False), ("masked", False, True), ("paper", True, True)]
)
def test_a_reading_of_table_2_bundles_mask_and_place_of_the_norms(reading, pre_norm, causal):
    tensor = compose_config("ptb", [f"reading={reading}"])
    transformer = compose_config("ptb", [f"reading={reading}", "architecture=transformer"])
    for config in (tensor, transformer):
        check(config)
        assert config.model.normalize_before == pre_norm
        assert config.reading.name == reading
    assert tensor.model.causal == causal
    assert "causal" not in transformer.model, "it is masked whatever the reading"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reading=nope"], ["reading 'nope'", "code", "masked", "paper"]),
        (["evaluate.beam=3"], ["evaluate.beam", "context", "segment"]),
        (["architecture=transformer", "model.causal=true"], ["model.causal", "attention_heads", "max_positions"]),
    ],
)
def test_unknown_settings_of_a_language_model(overrides, words):
    with pytest.raises(UserError) as error:
        compose_config("ptb", overrides)
    assert all(word in str(error.value) for word in words), error.value


@pytest.fixture(scope="module")
def wmt14():
    return compose_config("wmt14", ["norm=pn"])


def test_fairseqs_preparation_of_wmt14_is_a_separate_cell(wmt14):
    other = compose_config("wmt14", ["norm=pn", "corpus=wmt14_fairseq"])
    assert (other.variant, other.corpus.name) == ("pn,corpus=wmt14_fairseq", "wmt14")
    assert (other.corpus.subword_size, other.corpus.news_commentary) == (32000, "v9")
    assert corpus_config(other.corpus).variant() != corpus_config(wmt14.corpus).variant()
    assert other.optimization == wmt14.optimization


def test_each_norm_of_a_model_has_its_own_defaults():
    config = compose_config("demo", ["norm=bn", "model.decoder_norm=bn_released"])
    model = NormTransformerConfig.resolve(config.model)
    assert [model.build_norm(key).momentum for key in ("encoder_norm", "decoder_norm")] == [0.1, 0.05]
    assert (config.norm.momentum, config.model.norm_momentum) == (0.1, None), "the record shows the norm's default"


def test_norm_follows_heads_and_learning_rate():
    config = compose_config("demo", ["norm=pn", "model.encoder_attention_heads=2", "lr_scheduler.warmup_updates=77"])
    assert (config.norm.groups, config.norm.warmup_updates) == (None, 77)
    norm = NormTransformerConfig.resolve(config.model).build_norm("encoder_norm")
    assert (norm.groups, norm.warmup_updates) == (2, 77)
    assert compose_config("demo", ["norm=pn", "norm.alpha_fwd=0.5"]).model.norm_alpha_fwd == 0.5


@pytest.mark.parametrize(
    ("experiment", "overrides", "learning_rate", "last_norm"),
    [
        ("iwslt14", [], 8000, 1000),  # as released
        ("demo", [], 200, 25),
        ("demo", ["lr_scheduler.warmup_updates=6"], 6, 1),
        ("demo", ["lr_scheduler.warmup_updates=0"], 0, 0),
        ("demo", ["model.final_norm_warmup_updates=1000"], 200, 1000),
    ],
)
def test_the_last_norm_warms_up_for_an_eighth_of_the_learning_rates_warmup(
    experiment, overrides, learning_rate, last_norm
):
    config = compose_config(experiment, ["norm=pn", *overrides])
    assert (config.lr_scheduler.warmup_updates, config.norm.warmup_updates) == (learning_rate, learning_rate)
    assert config.model.final_norm_warmup_updates == last_norm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "override"),
    [
        ("ptb", "reading=code"),
        ("demo", "model.normalize_before=false"),
        ("demo", "norm.warmup_updates=0"),
    ],
)
def test_the_last_norms_warmup_is_refused_where_nothing_warms_up(experiment, override):
    compose_config(experiment, ["norm=pn", override])
    warmup = "model.final_norm_warmup_updates=5"
    with pytest.raises(UserError, match="final_norm_warmup_updates has no effect here"):
        compose_config(experiment, ["norm=pn", override, warmup])
    ignored = compose_config(experiment, ["norm=ln", *([override] if "norm." not in override else []), warmup])
    assert "warmup" not in ignored.variant, "norms without a warmup ignore it"


def test_the_last_norms_warmup_is_refused_for_a_norm_that_warms_up_alike_everywhere():
    with pytest.raises(UserError, match="has no effect here: it is the warmup of the PN"):
        compose_config("demo", ["norm=un", "model.final_norm_warmup_updates=5"])


@pytest.mark.slow
def test_hardware_does_not_change_the_cell():
    automatic, cpu, gpu = (
        compose_config("demo", overrides)
        for overrides in (["hardware=auto"], ["hardware=cpu"], ["hardware=gpu8", "hardware.processes=1"])
    )
    assert (automatic.common.cpu, cpu.common.cpu, gpu.common.cpu) == (False, True, False)
    assert cpu.distributed_training.distributed_world_size == gpu.distributed_training.distributed_world_size == 1
    assert automatic.run_dir == cpu.run_dir == gpu.run_dir


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("norm=nope", ["norm 'nope'", *NORMS]),
        ("corpus=nope", ["corpus 'nope'", "custom", "demo", "iwslt14", "multi30k"]),
        ("norm=[pn,ln]", ["norm=[pn,ln]: choose one option, as in norm=NAME"]),
        ("model=3", ["model=3: choose one option, as in model=NAME"]),
        ("nope=1", ["'nope'", "norm", "seed", "corpus", "evaluate"]),
        ("model.encoder_layer=3", ["'model.encoder_layer'", "did you mean model.encoder_layers", "dropout"]),
        ("dropout=0.1", ["'dropout': did you mean model.dropout?"]),
        ("layers=3", ["did you mean model.encoder_layers or model.decoder_layers?"]),
        ("mdoel.dropout=0.1", ["'mdoel.dropout': did you mean model.dropout?"]),
        ("corpus.size=3", ["'corpus.size'", "train_size", "subword"]),
        ("model.encoder_layers=six", ["model.encoder_layers=six: ", "a whole number"]),
        ("train=3", ["train=3: train is a section: set its keys one by one"]),
        ("evaluate={beam:3}", ["evaluate={beam:3}: evaluate is a section"]),
        ("optimization.max_epoch=null", ["optimization.max_epoch=null: a value is needed"]),
        ("seed=null", ["seed=null: a value is needed"]),
        ("criterion=cross_entropy", ["criterion=cross_entropy does not have the key 'label_smoothing'"]),
        ("evaluate.beam=many", ["evaluate.beam=many: ", "a whole number"]),
        ("train.checkpoint_minutes=few", ["train.checkpoint_minutes=few: ", "a number"]),
        ("force=perhaps", ["force=perhaps: ", "true or false"]),
        ("norm", ["'norm' is not an override", "KEY=VALUE"]),
        ("+foo.bar=1", ["unknown key 'foo.bar'"]),
        ("+common.foo=1", ["unknown key 'common.foo'", "Known in common"]),
        ("~lr_scheduler", ["'~lr_scheduler'", "leave it out"]),
        ("variant=foo", ["'variant=foo'", "leave it out"]),
        ("norm.name=pn", ["'norm.name=pn'", "norm=pn"]),
        ("hardware.name=slurm", ["hardware=slurm"]),
        ("tracking.name=", ["'tracking.name='"]),
        ("=3", []),
        ("seed=1,2", ["'seed=1,2' has several values", "-m"]),
        ("norm=ln,pn", ["'norm=ln,pn' has several values", "-m"]),
    ],
)
def test_unknown_names_and_values_of_the_wrong_type(override, words):
    with pytest.raises(UserError) as error:
        compose_config("demo", [override])
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_experiment():
    with pytest.raises(UserError, match=r"unknown experiment 'nope'. Known: custom, .*iwslt14, .*wmt14"):
        compose_config("nope")


def test_sweep_expands_to_every_combination():
    assert expand_sweep(["norm=ln,pn", "seed=1,2", "optimization.lr=[0.1,0.2]"]) == [
        [f"norm={norm}", f"seed={seed}", "optimization.lr=[0.1,0.2]"] for norm in ("ln", "pn") for seed in (1, 2)
    ]
    assert expand_sweep(["model.encoder_norm=[pn,ln],ln"]) == [
        ["model.encoder_norm=[pn,ln]"],
        ["model.encoder_norm=ln"],
    ]
    assert expand_sweep(["seed=range(1,4)"]) == [["seed=1"], ["seed=2"], ["seed=3"]]
    with pytest.raises(UserError, match="KEY=VALUE"):
        expand_sweep(["norm"])


def test_the_files_of_an_experiment_on_own_text_are_in_the_mirror_or_in_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = []
    for mirror, folder in ((tmp_path / "mirror", "mirror"), (None, "data")):
        monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror)) if mirror else monkeypatch.delenv("NORMPLUGINS_MIRROR")
        configs.append(dict(flatten(compose_config("jaen", ["norm=pn"]))))
        assert configs[-1]["corpus.valid"] == str(tmp_path / folder / "enja" / "dev")
    assert configs[0]["variant"] == configs[1]["variant"] == "pn"
    there, here = map(without_absolute_paths, configs)
    assert changed_settings(there, here) == [], "a published record stands for the run on every machine"
    gone = {"model.ffn_init": "xavier", "model.decoder_final_norm": None, "model.adaptive_softmax_factor": 1.0}
    assert changed_settings(here | gone, here) == [], "and in every version"
