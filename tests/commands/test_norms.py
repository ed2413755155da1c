"""The list of norms."""

from normplugins.norms import known_norms


def test_every_norm_is_listed_with_the_defaults_of_its_settings(accepted):
    said = accepted("norms")
    listed = {line.split()[0] for line in said.splitlines() if line.startswith("  ") and line[2] != " "}
    assert listed == set(known_norms())
    assert "alpha_fwd=0.9" in said
    assert "groups=heads" in said
