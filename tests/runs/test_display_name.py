"""The short names of runs; tests/runs/test_campaign.py tests that all cells of a campaign have different ones."""

import pytest

from normplugins.runs.display_name import display_name


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("ln", "ln-s1"),
        ("pn,norm.group_scaling=false", "pn-nogs-s1"),
        ("pnv,norm.group_scaling=true,optimization.lr=0.005", "pnv-gs-lr0.005-s1"),
        ("rms,norm.groups=4", "rms-groups4-s1"),
        ("bn,budget=cpu,model.causal=true", "bn-cpu-causal-s1"),
        ("ln,dataset.max_tokens=512,lr_scheduler.warmup_updates=4000", "ln-mt512-wu4000-s1"),
        ("pn,recipe=un", "pn-un-recipe-s1"),
        ("pn,processes=8", "pn-processes8-s1"),
    ],
)
def test_a_name_says_what_differs(variant, name):
    assert display_name(variant, 1) == name


def test_a_name_of_many_settings_is_cut_and_stays_its_own():
    one, other = (display_name(f"ln,{','.join(f'model.a{key}=1' for key in range(20))},x.y={n}", 1) for n in (1, 2))
    assert one != other
    assert max(len(one), len(other)) <= 43
    assert one.startswith("ln-a01-a11-")
