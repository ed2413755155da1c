"""The statistics probe: what it measures, and runs with it, which train bitwise as without it."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from normplugins.norms import NormConfig, build_norm
from normplugins.runs.compose import compose_config
from normplugins.training.statistics_probe import StatisticsProbe, is_on, is_probed, measure, running_before
from tests.helpers.runs import TINY, differences, load

GRID = [1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100, 133, 178, 237, 316, 422, 562, 750, 1000]


def run_of(trained, norm, *overrides):
    short = ["optimization.max_update=9", "evaluate.translate=false", f"data_dir={trained.data_dir}"]
    return ["run", "demo", f"norm={norm}", "tracking=none", "run_dir=run", *TINY, *short, *overrides]


class Block(nn.Module):
    """x + linear(norm(x)): the norm is not the only module that uses its input."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.norm = build_norm(NormConfig(name, groups=2), 8)
        self.linear = nn.Linear(8, 8)
        self.double()

    def forward(self, x, mask):
        y = self.norm(x, mask)
        y.retain_grad()
        return x + self.linear(y), y


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    return (torch.randn(5, 3, 8, generator=generator, dtype=torch.float64) + 0.5).requires_grad_(), mask


def test_probed_updates_are_evenly_spaced_on_a_logarithmic_scale():
    assert [update for update in range(1, 1001) if is_probed(update)] == GRID
    far = [update for update in range(1000, 100_001) if is_probed(update)]
    assert len(far) == 17
    assert all(later / earlier == pytest.approx(10**0.125, rel=1e-3) for earlier, later in pairwise(far))


@pytest.mark.parametrize("name", ["ln", "none", "bn", "bn_released", "pnv", "pn", "pn_alg2"])
def test_gradients_are_of_the_norm_alone_and_statistics_of_before_its_step(name):
    probed, plain = Block(name), Block(name)
    x, mask = inputs()
    running = running_before(plain.norm)
    entered = x.detach().clone().requires_grad_()
    with StatisticsProbe(probed, on=True).watch(1) as points:
        out, y = probed(x, mask)
        out.square().sum().backward()
    ((update, layers),) = [(point["update"], point["layers"]) for point in points]
    z = plain.norm(entered, mask)
    z.backward(y.grad)
    want = measure(plain.norm, x.detach(), mask, z.detach(), y.grad, entered.grad, running)
    assert update == 1
    assert list(layers) == ["norm"]
    assert {key: float(value) for key, value in want.items()} == pytest.approx(layers["norm"], rel=1e-5)
    assert layers["norm"]["grad_input"] != pytest.approx(float(x.grad.norm()), rel=0.01)


def test_only_the_first_batch_of_an_update_is_measured():
    one, two = Block("pn"), Block("pn")
    with StatisticsProbe(one, on=True).watch(10) as want:
        one(*inputs())[0].sum().backward()
    with StatisticsProbe(two, on=True).watch(10) as got:
        for seed in (0, 1):
            two(*inputs(seed))[0].sum().backward()
    assert got == want != []


@pytest.mark.parametrize(("update", "on"), [(5, True), (1, False)])
def test_no_hook_is_registered_at_other_updates(update, on):
    model = Block("bn")
    with StatisticsProbe(model, on).watch(update) as points:
        assert not model.norm._forward_hooks
        model(*inputs())[0].sum().backward()
    assert points == []


def test_hooks_are_removed_if_an_update_fails():
    model = Block("bn")
    before = dict(model.norm._forward_pre_hooks)

    def fail():
        with StatisticsProbe(model, on=True).watch(1):
            model(*inputs())
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        fail()
    assert not model.norm._forward_hooks
    assert model.norm._forward_pre_hooks == before


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["ln", "pn"])
def test_a_run_ends_bitwise_equal_with_and_without_the_probe(trained, accepted, tmp_path, monkeypatch, norm):
    ends = []
    for on in ("true", "false"):
        (tmp_path / on).mkdir()
        monkeypatch.chdir(tmp_path / on)
        accepted(*run_of(trained, norm, f"train.probe={on}"))
        ends.append(load(tmp_path / on / "run/checkpoint_last.pt"))
    probed, plain = (end["extra_state"]["history"] for end in ends)
    assert differences(ends[0]["model"], ends[1]["model"]) == []
    assert differences(ends[0]["last_optimizer_state"], ends[1]["last_optimizer_state"]) == []
    assert [point["update"] for point in probed["probe"]] == [1, 2, 3, 4, 6, 7]
    assert plain["probe"] == []
    has = ["train_mode_loss" in point for point in probed["valid"]]
    assert has == [norm != "ln"] * len(probed["valid"])
    assert not any("train_mode_loss" in point for point in plain["valid"])
    assert [point["loss"] for point in probed["valid"]] == [point["loss"] for point in plain["valid"]]


def test_a_record_contains_the_points(trained):
    points = trained.record["statistics_probe"]
    assert [point["update"] for point in points] == [update for update in GRID if update <= 24]
    model = load(trained.directory / "checkpoint_last.pt")["model"]
    norms = {name.rpartition(".")[0] for name in model if name.endswith("norm.weight")}
    assert all(point["layers"].keys() == norms for point in points)
    encoder, decoder = (points[-1]["layers"][f"{side}.final_norm"] for side in ("encoder", "decoder"))
    assert {"nu", "nu_distance", "psi_tid", "quadratic_mean_distance", "group_scale_mean"} <= encoder.keys()
    assert not {"nu", "psi_tid", "mean_tid", "mean_distance", "group_scale_mean"} & decoder.keys()
    assert all(0 < point["train_mode_loss"] < 10 for point in trained.record["curves"]["valid"])


def test_a_record_contains_the_largest_nu_of_every_epoch(trained):
    largest = [point["largest_nu"] for point in trained.record["curves"]["valid"]]
    points = [layer["nu"] for point in trained.record["statistics_probe"] for layer in point["layers"].values()
              if "nu" in layer]  # fmt: skip
    assert min(largest) > 0
    assert max(largest) >= max(points)


def test_the_largest_nu_is_that_of_now():
    model = nn.ModuleList([Block("pn"), Block("pn_alg2"), Block("ln")])
    probe = StatisticsProbe(model, on=True)
    assert probe.largest_nu() == 0
    model[0].norm.ema_gz[:] = 3 / (1 - model[0].norm.alpha_bkw)
    model[1].norm.ema_gz[:] = 2
    assert probe.largest_nu() == pytest.approx(3 / 8**0.5)
    model[1].norm.ema_gz[0] = torch.nan
    assert math.isnan(probe.largest_nu())
    assert StatisticsProbe(model, on=False).largest_nu() is None
    assert StatisticsProbe(Block("ln"), on=True).largest_nu() is None


def test_the_setting_does_not_change_the_cell():
    config = compose_config("demo", ["norm=bn"])
    assert is_on(config)
    assert compose_config("demo", ["norm=bn", "train.probe=false"]).variant == config.variant == "bn"
    for change in ("train.probe=false", "train.compile=true", "model.checkpoint_activations=true"):
        assert not is_on(compose_config("demo", ["norm=bn", change]))
