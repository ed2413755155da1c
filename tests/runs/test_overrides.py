import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from normplugins.runs.overrides import hydra_overrides

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


def parsed(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@given(TEXT.filter(lambda value: value != "null" and value[0] not in "'\"" and "${" not in value))
def test_whatever_is_given_for_a_text_setting_is_its_value(value):
    (quoted,) = hydra_overrides([f"run_dir={value}"])
    assert parsed(quoted) == value


@pytest.mark.parametrize("key", ["experiment", "data_dir", "tracking.project", "corpus.url", "+hardware.name"])
@pytest.mark.parametrize("value", ["20261128", "nan", "1e3", "true", "a,b", "http://x/y?a=b", "/tmp/my runs(2)/#1"])
def test_text_settings_take_what_looks_like_something_else(key, value):
    assert parsed(*hydra_overrides([f"{key}={value}"])) == value


def test_other_settings_and_quoted_values_are_left_alone():
    overrides = [
        "seed=1",
        "norm.eps=1e-6",
        "norm=pn",
        "tracking.entity=null",
        "data_dir='a b'",
        "run_dir=${data_dir}/x",
    ]
    assert hydra_overrides(overrides) == overrides


def test_commas_separate_the_runs_of_a_sweep():
    assert hydra_overrides(["corpus.url=a,b", "data_dir=2026"], sweep=True) == ["corpus.url=a,b", "data_dir='2026'"]
