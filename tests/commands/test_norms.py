"""The list of norms."""

from normplugins.norms import known_norms
from tests.helpers.runs import REPOSITORY


def test_every_norm_is_listed_with_the_defaults_of_its_settings(accepted):
    said = accepted("norms")
    listed = {line.split()[0] for line in said.splitlines() if line.startswith("  ") and line[2] != " "}
    assert listed == set(known_norms())
    assert "alpha_fwd=0.9" in said
    assert "groups=heads" in said


def test_the_documentation_has_the_table_of_all_settings(accepted):
    page = (REPOSITORY / "docs" / "norms.md").read_text(encoding="utf-8")
    assert accepted("norms", "--markdown") in page, "put the command's output into docs/norms.md"
