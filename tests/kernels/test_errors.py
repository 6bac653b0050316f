from dlrmjit.errors import DataError, DlrmjitError


def test_a_message_is_one_line_whatever_a_file_put_into_it():
    error = DataError("a.csv: 'x\x1b[2J\n\ud800' found")
    assert str(error) == r"a.csv: 'x\x1b[2J\n\ud800' found"


def test_a_long_message_has_its_start_and_its_end():
    text = str(DlrmjitError("start " + "\0" * 50_000 + " end"))
    assert text.startswith("start ")
    assert text.endswith(" end")
    assert len(text) <= 2000


def test_a_printable_message_stays_as_it_is():
    assert str(DlrmjitError("é: 3 columns, expected 2")) == "é: 3 columns, expected 2"
