"""The registry, each norm's own defaults, and the configs of the Hydra group ``norm``."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hydra import compose
from omegaconf import OmegaConf
from torch import nn

from normplugins.norms import (
    NormConfig,
    build_norm,
    known_norms,
    register_norm,
    registry,
    resolve_norm,
    sees_sentence,
    settings_read,
)
from normplugins.runs.compose import composing
from tests.helpers.norms import BATCH_NORMS, NORMS

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_norm_builds_and_has_the_buffers_that_others_rely_on() -> None:
    assert set(NORMS) <= set(known_norms())
    names = {name: {n for n, _ in build_norm(NormConfig(name), 8).named_buffers()} for name in NORMS}
    pn, bn = {"running_phi", "ema_gz", "num_updates"}, {"running_mean", "running_var"}
    assert names == {
        "ln": set(), "none": set(), "pnv": {"running_phi"}, "pn": pn, "pn_alg2": pn, "bn": bn, "bn_released": bn,
        "rms": set(), "scale": set(), "group": set(), "instance": set(), "affine": set(), "weight": {"running_mean"},
    }  # fmt: skip
    for name in sorted({*BATCH_NORMS, "ln", "group", "instance", "affine"} - {"weight"}):
        assert {n: tuple(p.shape) for n, p in build_norm(NormConfig(name), 8).named_parameters()} == {
            "weight": (8,),
            "bias": (8,),
        }
    pn_module = build_norm(NormConfig("pn"), 8)
    parameters = {name: [n for n, _ in build_norm(NormConfig(name), 8).named_parameters()] for name in NORMS}
    assert [parameters[name] for name in ("rms", "scale", "weight", "none")] == [["weight"], ["weight"], ["bias"], []]
    assert torch.equal(pn_module.running_phi, torch.ones(8))
    assert (pn_module.num_updates.shape, pn_module.num_updates.dtype) == ((), torch.int64)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'batchnorm'.*bn, bn_released, .*ln, none, .*pn, pn_alg2, pnv"):
        build_norm(NormConfig("batchnorm"), 8)


def test_own_defaults_are_the_released_and_the_papers() -> None:
    pn, alg2 = resolve_norm(NormConfig("pn")), resolve_norm(NormConfig("pn_alg2"))
    switches = ("group_scaling", "double_update", "batch_backward", "padding_in_backward", "unscaled_nu")
    assert [getattr(pn, s) for s in switches] == [True] * 5
    assert [getattr(alg2, s) for s in switches] == [False] * 5
    assert (pn.groups, pn.warmup_updates, alg2.warmup_updates) == (4, 8000, 0)
    assert resolve_norm(NormConfig("bn")).momentum == 0.1
    assert resolve_norm(NormConfig("bn_released")).momentum == 0.05


def test_what_is_given_wins_and_what_is_not_read_stays() -> None:
    given = NormConfig("pn_alg2", group_scaling=True, groups=2, momentum=0.3)
    resolved = resolve_norm(given)
    assert (resolved.group_scaling, resolved.groups, resolved.momentum) == (True, 2, 0.3)
    assert resolve_norm(NormConfig("ln", groups=3)) == NormConfig("ln", groups=3)


def test_group_scaling_has_a_group_a_head_where_it_is_on_and_nobody_says_otherwise() -> None:
    def groups(name: str, **settings: object) -> int | None:
        return resolve_norm(NormConfig(name, **settings), heads=8).groups  # type: ignore[arg-type]

    assert [groups(name, group_scaling=True) for name in ("pn", "pn_alg2", "pnv", "bn")] == [8] * 4
    assert [groups(name, group_scaling=True, groups=2) for name in ("pn", "pn_alg2", "pnv", "bn")] == [2] * 4
    assert [groups(name) for name in ("pn", "rms", "group")] == [8, 1, 4]
    assert [resolve_norm(NormConfig(name)).groups for name in ("pn", "rms", "group")] == [4, 1, 4]
    assert groups("bn_released") is None  # as released it has one over all channels, which is no setting
    assert build_norm(NormConfig("bn_released", groups=2), 8).groups == 1


def test_each_norm_knows_what_it_reads() -> None:
    statistics = ["sync", "per_update", "kernels"]
    assert settings_read(NormConfig("none")) == []
    assert settings_read(NormConfig("ln")) == ["eps"]
    assert "groups" not in settings_read(NormConfig("bn_released"))
    assert settings_read(NormConfig("rms")) == ["eps", "groups", "kernels"]
    assert settings_read(NormConfig("pnv")) == ["eps", "alpha_fwd", *statistics, "group_scaling"]
    assert settings_read(NormConfig("pnv", group_scaling=True)) == [
        *("eps", "groups", "alpha_fwd"),
        *(*statistics, "group_scaling"),
    ]
    with pytest.raises(ValueError, match="unknown norm 'batchnorm'"):
        settings_read(NormConfig("batchnorm"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sync": "all"}, "unknown sync='all'; choose one of none, batch, deferred"),
        ({"sync": "rank0", "name": "ln"}, "unknown sync='rank0'"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"groups": 0}, "groups=0"),
        ({"warmup_updates": -1}, "warmup_updates=-1"),
        ({"alpha_fwd": 1.5}, "alpha_fwd=1.5"),
        ({"name": "bn", "momentum": 0.0}, "momentum=0.0"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_norm(NormConfig(**({"name": "pn"} | wrong)), 8)  # type: ignore[arg-type]


def test_a_norm_from_outside_registers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))

    @register_norm("shift")
    @register_norm("big_shift", momentum=0.5)
    class Shift(nn.Module):
        def __init__(self, dim: int, *, eps: float = 1.0, momentum: float = 0.25, mine: int = 3) -> None:
            super().__init__()
            self.shift = momentum + eps + mine

        def forward(self, x: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
            return x + self.shift

    assert {"shift", "big_shift"} <= set(known_norms())
    zero = torch.zeros(1)
    assert settings_read(NormConfig("shift")) == ["eps", "momentum"]
    assert build_norm(NormConfig("shift", eps=0.125), 1)(zero).item() == 3.375
    assert build_norm(NormConfig("big_shift", eps=0.125), 1)(zero).item() == 3.625
    assert build_norm(NormConfig("big_shift", eps=0.125, momentum=1.0), 1)(zero).item() == 4.125
    with pytest.raises(ValueError, match="'shift' is registered already"):
        register_norm("shift")(Shift)
    with pytest.raises(ValueError, match="Shift takes no groups"):
        register_norm("third", groups=2)(Shift)
    with pytest.raises(ValueError, match="Shift takes no groups"):
        register_norm("third", fixed={"groups": 2})(Shift)


def test_instance_alone_sees_its_sentence() -> None:
    assert [name for name in known_norms() if sees_sentence(name)] == ["instance"]
    assert not sees_sentence("no such norm")


def test_fields_are_plain_so_that_fairseq_can_make_options_of_them() -> None:
    plain = {"int", "float", "str", "bool", "typing.Optional[int]", "typing.Optional[float]", "typing.Optional[bool]"}
    assert {f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in fields(NormConfig)} <= plain
    assert all(f.default.__class__ in (int, float, str, bool, type(None)) for f in fields(NormConfig))


def test_importing_the_norms_brings_in_torch_alone() -> None:
    others = "('fairseq', 'hydra', 'omegaconf', 'wandb')"
    code = f"import sys, normplugins.norms; print([m for m in {others} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_configs_cover_every_norm_and_every_field() -> None:
    group = CONFIGS / "norm"
    assert {path.stem for path in group.glob("*.yaml")} == {*known_norms(), "_fields"}
    written = OmegaConf.to_container(OmegaConf.load(group / "_fields.yaml"))
    assert written == {f.name: f.default for f in fields(NormConfig)}


@pytest.mark.parametrize("name", NORMS)
def test_each_config_is_the_norms_own_default_and_can_be_overridden(name: str) -> None:
    with composing():
        composed = compose(overrides=[f"+norm={name}"]).norm
        changed = compose(overrides=[f"+norm={name}", "norm.groups=2", "norm.unscaled_nu=false"]).norm
    assert resolve_norm(NormConfig(**composed)) == resolve_norm(NormConfig(name))
    build_norm(NormConfig(**composed), 8)
    assert (NormConfig(**changed).groups, NormConfig(**changed).unscaled_nu) == (2, False)
