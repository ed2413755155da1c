"""The list of norms, and the settings of one."""

import pytest

from normplugins.norms import all_settings, known_norms


def test_every_norm_is_listed_with_the_defaults_of_its_settings(accepted):
    said = accepted("norms")
    listed = {line.split()[0] for line in said.splitlines() if line.startswith("  ") and line[2] != " "}
    assert listed == set(known_norms())
    assert "alpha_fwd=0.9" in said
    assert "groups=heads" in said


@pytest.mark.parametrize("norm", ["pn", "none"])
def test_the_settings_of_a_norm_are_described(norm, accepted):
    said = accepted("norms", norm)
    for key, one in all_settings().items():
        assert (f"norm.{key}=" in said) == (norm in one.defaults)


def test_an_unknown_norm_is_refused(refused):
    assert "unknown norm 'nope'. Known: bn" in refused("norms", "nope")
