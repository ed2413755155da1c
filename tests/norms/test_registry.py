"""The registry: defaults, ranges, the settings that a norm reads, and new norms."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from normplugins.norms import (
    EpsSettings,
    NormConfig,
    all_settings,
    build_norm,
    known_norms,
    register_norm,
    registry,
    setting,
)

REPOSITORY = Path(__file__).parents[2]


PN, BN = {"running_phi", "ema_gz", "num_updates"}, {"running_mean", "running_var"}


@pytest.mark.parametrize(
    ("name", "buffers"), [("ln", set()), ("bn", BN), ("bn_released", BN), ("pnv", {"running_phi"}), ("pn", PN)]
)
def test_the_papers_norms_have_the_parameters_and_buffers_that_others_rely_on(name: str, buffers: set[str]) -> None:
    norm = build_norm(NormConfig(name), 8)
    assert {key for key, _ in norm.named_buffers()} == buffers
    assert {key for key, _ in norm.named_parameters()} == {"weight", "bias"}


def test_an_unknown_name_lists_the_known_ones() -> None:
    for call in (NormConfig.settings_read, NormConfig.resolve, lambda config: build_norm(config, 8)):
        with pytest.raises(ValueError, match=r"'batchnorm'.*bn, bn_released, .*ln, .*pn, pn_alg2, pnv"):
            call(NormConfig("batchnorm"))


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown norm setting 'group'; known settings: .*groups"):
        NormConfig("pn", group=4)


def test_given_values_override_defaults_and_unread_values_remain() -> None:
    resolved = NormConfig("pn_alg2", group_scaling=True, groups=2, momentum=0.3).resolve()
    assert (resolved.group_scaling, resolved.groups, resolved.momentum) == (True, 2, 0.3)
    assert NormConfig("ln", groups=3).resolve() == NormConfig("ln", groups=3, eps=1e-5)


def test_a_config_is_an_immutable_value() -> None:
    config = NormConfig("pn", groups=4, momentum=None)
    assert config == NormConfig("pn", groups=4) == pickle.loads(pickle.dumps(config))
    assert len({config, NormConfig("pn", groups=4), config.replace(groups=2)}) == 2
    assert (config.groups, config.momentum) == (4, None)
    with pytest.raises(AttributeError, match="cannot assign to field"):
        config.groups = 2
    with pytest.raises(AttributeError, match="no setting 'group'"):
        _ = config.group


def test_group_scaling_has_one_group_per_head_by_default() -> None:
    def groups(name: str, **settings: object) -> int | None:
        return NormConfig(name, **settings).resolve(heads=8).groups

    assert [groups(name, group_scaling=True) for name in ("pn", "pn_alg2", "pnv", "bn")] == [8] * 4
    assert [groups(name, group_scaling=True, groups=2) for name in ("pn", "pn_alg2", "pnv", "bn")] == [2] * 4
    assert [groups(name) for name in ("pn", "rms", "group")] == [8, 1, 4]
    assert groups("bn_released") is None  # as released it has one over all channels, which is no setting
    assert build_norm(NormConfig("bn_released", groups=2), 8).groups == 1


def test_each_norm_lists_the_settings_that_it_reads() -> None:
    assert NormConfig("none").settings_read() == []
    assert NormConfig("ln").settings_read() == ["eps"]
    assert "groups" not in NormConfig("bn_released").settings_read()
    assert set(NormConfig("rms").settings_read()) == {"eps", "groups", "kernels"}
    pnv = {"eps", "alpha_fwd", "sync", "per_update", "kernels", "group_scaling"}
    assert set(NormConfig("pnv").settings_read()) == pnv
    assert set(NormConfig("pnv", group_scaling=True).settings_read()) == {*pnv, "groups"}
    assert "double_update" in NormConfig("pn").settings_read()
    assert "double_update" not in NormConfig("pn", warmup_updates=0).settings_read()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sync": "all"}, "unknown sync 'all'; known: none, batch, deferred"),
        ({"kernels": "cuda"}, "unknown kernels 'cuda'; known: auto, plain, triton"),
        ({"eps": 0.0}, "eps is 0.0, but must be above 0"),
        ({"groups": 0}, "groups is 0, but must be at least 1"),
        ({"warmup_updates": -1}, "warmup_updates is -1"),
        ({"alpha_fwd": 1.5}, "alpha_fwd is 1.5, but must be below 1"),
        ({"name": "bn", "momentum": 0.0}, "norm 'bn': momentum is 0.0"),
    ],
)
def test_values_out_of_range_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_norm(NormConfig(**({"name": "pn"} | wrong)), 8)  # type: ignore[arg-type]


def test_one_module_serves_several_names_and_faulty_registrations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))

    @dataclass(frozen=True)
    class ShiftSettings(EpsSettings):
        momentum: float = setting(0.25, "added", minimum=0)

    @register_norm("shift", ShiftSettings)
    @register_norm("big_shift", ShiftSettings, momentum=0.5, fixed={"eps": 1.0}, summary="Shifts more.")
    class Shift(nn.Module):
        """Shifts."""

        def __init__(self, dim: int, settings: ShiftSettings) -> None:
            super().__init__()
            self.shift = settings.momentum + settings.eps

        def forward(self, x: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
            return x + self.shift

    assert {"shift", "big_shift"} <= set(known_norms())
    assert (known_norms()["shift"], known_norms()["big_shift"]) == ("Shifts.", "Shifts more.")
    zero = torch.zeros(1)
    assert NormConfig("shift").settings_read() == ["eps", "momentum"]
    assert build_norm(NormConfig("shift", eps=0.125), 1)(zero).item() == 0.375
    assert build_norm(NormConfig("big_shift", eps=0.125), 1)(zero).item() == 1.5
    assert build_norm(NormConfig("big_shift", momentum=2.0), 1)(zero).item() == 3.0

    @dataclass(frozen=True)
    class OtherType:
        momentum: int = setting(1, "of another type")

    @dataclass(frozen=True)
    class Neutral:
        momentum: float = setting(1.0, "said to change nothing", changes_result=False)

    @dataclass(frozen=True)
    class NoDefault:
        gain: float

    for name, settings, more, error, message in (
        ("shift", ShiftSettings, {}, ValueError, "'shift' is registered already"),
        ("third", ShiftSettings, {"groups": 2}, ValueError, "ShiftSettings has no setting groups"),
        ("third", OtherType, {}, ValueError, "another norm's setting 'momentum' is of type"),
        ("third", Neutral, {}, ValueError, "'momentum' has another changes_result"),
        ("third", NoDefault, {}, TypeError, "NoDefault.gain has no default"),
    ):
        with pytest.raises(error, match=message):
            register_norm(name, settings, **more)(Shift)


def test_the_default_that_is_the_number_of_heads_is_no_shared_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_NORMS", {})

    @dataclass(frozen=True)
    class BlockSettings:
        blocks: int = setting(4, "one per head in a model", minimum=1, per_head=True)

    register_norm("blocks", BlockSettings)(nn.Identity)
    assert all_settings()["blocks"].default is None
    assert NormConfig("blocks").resolve(8).blocks == 8


def test_the_documentation_lists_every_norm() -> None:
    page = (REPOSITORY / "docs" / "norms.md").read_text(encoding="utf-8")
    assert [name for name in known_norms() if f"| `{name}` |" not in page] == []
