"""JSON that cannot be parsed is one error that names its origin."""

import pytest

from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import parse_json

BAD = [
    "",
    "[",
    "[" * 100_000,
    "[" * 200 + "]" * 200,
    '{"a":' * 50_000,
    "NaN",
    "[Infinity]",
    "9" * 10_000,
    "{}x",
    b"\xff",
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_text_that_is_no_json(text):
    for error in (DataError, ConfigError):
        with pytest.raises(error, match=r"here is not valid JSON: "):
            parse_json(text, "here", error)


def test_values_are_those_of_json():
    assert parse_json('{"a": [1, 2.5, null, true, "x"]}', "here") == {
        "a": [1, 2.5, None, True, "x"]
    }
