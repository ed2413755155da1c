import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "state.json"
    write_json(path, content)
    assert read_json(path, "") == content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: b"", "is damaged"),
        (lambda text: text.replace(b"34.5", b"35.5"), "has been changed"),
        (lambda text: text + b"\xff", "is damaged"),
        (lambda text: b"[1, 2]", "is damaged"),
        (lambda text: b"[" * 100_000, "is damaged"),
    ],
)
def test_damage_is_refused_in_one_line_with_the_remedy(tmp_path, damage, message):
    path = tmp_path / "record.json"
    write_json(path, {"score": 34.5, "name": "pn"})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"record\.json {message}.*: delete it$"):
        read_json(path, "delete it")


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "record.json", "delete it")
    with pytest.raises(UserError, match=r"cannot write .*: Is a directory .*; move it away"):
        write_json(tmp_path / "record.json", {})


def test_a_missing_file_is_none_and_one_of_an_older_version_is_accepted(tmp_path):
    path = tmp_path / "record.json"
    assert read_json(path, "") is None
    path.write_text(json.dumps({"score": 1}))
    assert read_json(path, "") == {"score": 1}
