"""Tables of text."""

from kilonet.utils.text_tables import aligned


def test_words_stand_left_and_figures_right() -> None:
    rows = [("name", "bytes", "note"), ("a", "1,024", ""), ("longer", "2", "so")]
    assert aligned(rows, (0, 2)) == ["name    bytes  note", "a       1,024", "longer      2  so"]


def test_a_table_without_rows_is_its_heads() -> None:
    assert aligned([("a", "b")], (0,)) == ["a  b"]
