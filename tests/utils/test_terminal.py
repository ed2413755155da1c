"""Tables on a terminal: at every width each number that is shown is whole and has its name."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normplugins.utils.terminal import Column, Table, definitions, say, terminal

NUMBER = re.compile(r"\d[\d,.]*\d|\d")
number = st.one_of(
    st.integers(0, 10**9).map("{:,}".format),
    st.tuples(st.floats(0, 99), st.floats(0, 9)).map(lambda pair: f"{pair[0]:.2f} ± {pair[1]:.2f}"),
)
text = st.sampled_from(["", "pn", "2 cores", "pnv,norm.group_scaling=true,optimization.lr=0.00512", "1 (45%) 2 3"])


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=6))
    columns = [Column("cell", right=False)]
    columns += [
        Column(f"words\n{name}", right, draw(st.booleans())) for name, right in zip("ABCDEF", kinds, strict=False)
    ]
    row = st.tuples(text.filter(bool), *(number if right else text for right in kinds))
    return Table("title", columns, draw(st.lists(row, min_size=1, max_size=4)))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(tables(), st.integers(8, 140))
def test_every_number_that_is_shown_is_whole_and_has_its_name(table, width):
    body, _, left_out = re.sub(r"  Not\s+shown\s+in\s+", "#", terminal(table, width)).partition("#")
    shown = [not re.search(rf"\b{column.name[-1]}\b", left_out) for column in table.columns]
    assert all(column.detail for column, is_shown in zip(table.columns, shown, strict=True) if not is_shown)
    values = [row[index] for row in table.rows for index, is_shown in enumerate(shown) if is_shown]
    assert Counter(NUMBER.findall(body)) == Counter(NUMBER.findall(" ".join(values)))
    for index, column in enumerate(table.columns[1:], 1):
        if shown[index] and any(row[index] for row in table.rows):
            assert re.search(rf"\b{column.name[-1]}\b", body)
    for line in body.splitlines():  # only a word that is longer than the terminal makes a line longer
        assert len(line) <= width or len(re.split(r"\s|[,.=](?=[a-z])", line.strip())) == 1, line


def test_a_narrow_terminal_breaks_long_names_before_it_leaves_out_a_number():
    columns = [Column("norm", right=False), Column("BLEU"), Column("chrF2", detail=True)]
    name = "pnv, norm.group_scaling=true"
    table = Table("demo", columns, [[name, "36.50 ± 0.25", "55.00 ± 0.25"], ["pn", "36.00", "54.00"]], [])
    text = terminal(table, 50)
    assert max(map(len, text.splitlines())) <= 50
    assert "36.50 ± 0.25" in text
    assert "55.00 ± 0.25" in text
    names = [line.split("  ")[0].strip() for line in text.splitlines()[4:]]
    assert "".join(names).replace(" ", "") == f"{name}pn".replace(" ", "")
    assert "55.00" not in terminal(table, 30)


def test_names_with_texts_fit_the_terminal():
    rows = {"an update": "at most 4,096 tokens: 1 batches of 4,096", "a long name of a row": "36,669,440 parameters"}
    for width in (20, 40, 60, 80):
        shown = definitions(rows, width)
        assert max(map(len, shown.splitlines())) <= width
        assert NUMBER.findall(shown) == ["4,096", "1", "4,096", "36,669,440"]
    assert definitions(rows, None).count("\n") == 1


def test_lines_for_a_file_are_not_changed(capsys):
    line = "a\tb  c  \n\n    d"
    say(line)
    assert capsys.readouterr().out == f"{line}\n"
