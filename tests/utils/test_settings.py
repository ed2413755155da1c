"""Settings that carry their valid range."""

from dataclasses import dataclass, fields

import pytest

from normplugins.utils.settings import invalid_value, setting


@dataclass
class Settings:
    count: int = setting(2, "how many", minimum=1, maximum=9)
    share: float | None = setting(None, "how much", above=0, below=1)
    kind: str = setting("a", "which", choices=("a", "b"), changes_result=False)
    on: bool = setting(False, "whether")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, None),
        ({"count": 9, "share": 0.5, "kind": "b"}, None),
        ({"count": 0}, "x.count is 0, but must be at least 1"),
        ({"count": 10}, "x.count is 10, but must be at most 9"),
        ({"count": None}, "x.count needs a value: how many"),
        ({"share": 0}, "x.share is 0, but must be above 0"),
        ({"share": 1.0}, "x.share is 1.0, but must be below 1"),
        ({"kind": "c"}, "unknown x.kind 'c'; known: a, b"),
        ({"count": "4"}, "x.count is '4', but must be a whole number"),
        ({"count": 4.0}, "x.count is 4.0, but must be a whole number"),
        ({"count": True}, "x.count is True, but must be a whole number"),
        ({"share": float("inf")}, "x.share is inf, but must be a finite number"),
        ({"on": "false"}, "x.on is 'false', but must be true or false"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_named_with_what_is_valid(values, message):
    settings = Settings(**values)
    messages = [invalid_value(field, getattr(settings, field.name), "x.") for field in fields(Settings)]
    assert next(filter(None, messages), None) == message


def test_a_field_says_what_it_is_and_whether_it_changes_a_result():
    metadata = {field.name: field.metadata for field in fields(Settings)}
    assert (metadata["count"]["help"], metadata["count"]["changes_result"]) == ("how many", True)
    assert not metadata["kind"]["changes_result"]
