"""Every snippet of every page runs as it is written, or says why it does not."""

import re
import shlex
from itertools import dropwhile

import pytest

from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.document import COMMANDS
from dlrmjit.cli.options.parse import parse
from docs.layers import ROOT
from tests.docs.given import make, put
from tests.docs.snippets import run, snippets
from tests.docs.test_pages import PAGES, page_name
from tests.parallel.launch import mpiexec

ELSEWHERE = {"how_to_add": "test_how_to_add.py"}  # folders whose pages another test runs
RUNNING = [
    page
    for page in PAGES
    if page.parent.name not in ELSEWHERE and any(s.runs for s in snippets(page))
]
_ASSIGNMENT = re.compile(r"\w+=")
BY_NAME = {f"dlrmjit.{command.name}": command for command in COMMANDS}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    for library in ("pyarrow", "plotly", "onnx", "sklearn", "pandas", "starlette"):
        pytest.importorskip(library)
    return make(tmp_path_factory.mktemp("given") / "made")


@pytest.mark.parametrize("page", RUNNING, ids=page_name)
def test_the_snippets_run(page, made, tmp_path):
    for snippet in snippets(page):
        put(snippet.given, made, tmp_path)
        if snippet.action == "write":
            (tmp_path / snippet.name).write_text(snippet.text)
        elif snippet.runs and "mpiexec" in snippet.text and mpiexec() is None:
            pytest.skip("needs mpiexec and mpi4py from here on")
        elif snippet.runs:
            run(snippet.language, snippet.text, ROOT, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_code_is_in_fences_with_a_language(page):
    text = page.read_text()
    outside = re.sub(r"^```\w.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"^```", outside, re.MULTILINE), "a fence without a language"
    assert not re.search(r"\n\n    \S", outside), "an indented block: use a fence with a language"
    assert len(re.findall(r"^```\w", text, re.MULTILINE)) == len(snippets(page)), (
        "words after a language that no test understands"
    )


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_options_of_commands_that_are_not_run_exist(page):
    for snippet in snippets(page):
        if snippet.language == "sh" and not snippet.runs:
            for words in commands(snippet.text):
                check_command(words)


def commands(text):
    """Yield the words of every command of dlrmjit in a shell snippet, from its module on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = [*dropwhile(_ASSIGNMENT.match, shlex.split(line, comments=True))]
        if "-m" in words and words[words.index("-m") + 1].startswith("dlrmjit."):
            yield words[words.index("-m") + 1 :]
        elif words[:1] == ["dlrmjit"] and words[1:]:
            yield [f"dlrmjit.{words[1].replace('-', '_')}", *words[2:]]


def check_command(words):
    """Parse a command line; raises ConfigError for what the command refuses."""
    module, *arguments = words
    if module == "dlrmjit.train":
        parse([word for word in arguments if word != "set"])  # which is not there
    elif module != "dlrmjit.warm":
        parse_command(BY_NAME[module], arguments)


def test_a_command_of_a_page_with_a_wrong_option_is_found():
    (words,) = commands("DLRMJIT_PIN=0 dlrmjit tune \\\n    --confg small  # a comment")
    with pytest.raises(Exception, match="did you mean --config"):
        check_command(words)
    text = (
        "dlrmjit export-embeddings m --out t\npip install x\nmpiexec -n 2 python -m dlrmjit.train"
    )
    assert list(commands(text)) == [
        ["dlrmjit.export_embeddings", "m", "--out", "t"],
        ["dlrmjit.train"],
    ]
