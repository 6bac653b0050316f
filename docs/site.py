"""What mkdocs does not do by itself for the site: pages outside this folder, the API, fences.

``mkdocs.yml`` names this module as its hooks. A page that GitHub shows from the root of the
repository is a page of the site under the name in ``OUTSIDE``; notebooks are pages too, and every
module in ``API`` has a page of its public names.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
NOTEBOOKS = {
    str(path.relative_to(ROOT)): f"examples/{path.stem}.md"
    for path in sorted((ROOT / "examples").glob("*.ipynb"))
}
API = {  # module: its first sentence on the page
    "dlrmjit": "Models, training, checkpoints.",
    "dlrmjit.data": "Sources of batches.",
    "dlrmjit.architecture": "Models as lists of nodes.",
    "dlrmjit.checkpoint": "Files of saved models.",
    "dlrmjit.parallel.comm": "Communication between ranks.",
    "dlrmjit.sklearn": "The estimator for scikit-learn.",
    "dlrmjit.torch": "Exchange with PyTorch.",
    "dlrmjit.advice": "How to train a model on given machines.",
    "dlrmjit.doctor": "Whether a machine is set up well.",
    "dlrmjit_kernels": "Kernels, usable without the rest.",
}
WITHOUT_MEMBERS = {"dlrmjit_kernels.optimizers"}
"""Modules whose classes are used by their constants; who adds one reads the source."""
_FENCE = re.compile(r"^(```\w+)(?: (?:(file|edit|write)=(\S+)|not run: .+))$", re.MULTILINE)
_GIVEN = re.compile(r"^<!-- given: .* -->\n", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?\.?([^`]+)`")
_LINK = re.compile(r"(\]\()([^)#\s]+)")


def on_config(config: Any) -> Any:
    """Add the pages of the API, and those of notebooks, to the navigation."""
    for section in config.nav:
        if "API" in section:
            section["API"] = [{module: f"api/{module}.md"} for module in API]
        elif "Tutorials" in section:
            section["Tutorials"] += list(NOTEBOOKS.values())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not files of this folder."""
    from mkdocs.structure.files import File

    made = {target: (ROOT / source).read_text() for source, target in OUTSIDE.items()}
    made |= {target: notebook_text(ROOT / source) for source, target in NOTEBOOKS.items()}
    made |= {f"api/{module}.md": api_text(module) for module in API}
    for target, text in made.items():
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page with links between pages of the site, and fences that name a language alone."""
    sources = {target: source for source, target in (OUTSIDE | NOTEBOOKS).items()}
    target = page.file.src_uri
    source = sources.get(target, f"docs/{target}")
    text = _GIVEN.sub("", markdown)
    text = _FENCE.sub(lambda match: _title(*match.groups()), text)
    return _LINK.sub(lambda match: match[1] + _link(match[2], source, target), text)


def _title(fence: str, action: str | None, name: str | None) -> str:
    verbs = {"file": name, "write": name, "edit": f"change of {name}"}
    return f'{fence} title="{verbs[action]}"' if action else fence


def _link(link: str, source: str, target: str) -> str:
    """Return a link of the repository's file ``source`` as one of the site's page ``target``."""
    if re.match(r"[a-z]+:", link):
        return link
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    page = (OUTSIDE | NOTEBOOKS).get(path, path.removeprefix("docs/"))
    return posixpath.relpath(page, posixpath.dirname(target) or ".")


def public_names(module: str) -> dict[str, str]:
    """Return the public names of a module, each with the module that defines it, in order."""
    (names,) = (
        ast.literal_eval(node.value)
        for node in _tree(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name: _definer(module, name) for name in names if not name.startswith("__")}


def _definer(module: str, name: str) -> str:
    """Return the module that defines ``name``, which ``module`` defines or imports."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.startswith("dlrmjit"):
                    return _definer(node.module, alias.name)
    return module


@cache
def _tree(module: str) -> ast.Module:
    folder = ROOT / ("kernels" if module.startswith("dlrmjit_kernels") else ".")
    path = folder / module.replace(".", "/")
    return ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )


def api_text(module: str) -> str:
    """Return the page of a module: one directive of mkdocstrings for each public name.

    A name that an earlier page has is only linked.
    """
    parts, linked = [f"# {module}", API[module]], []
    earlier = list(API)[: list(API).index(module)]
    shown = {f"{home}.{name}": m for m in earlier for name, home in public_names(m).items()}
    for name, home in public_names(module).items():
        path = f"{home}.{name}"
        if path in shown:
            linked.append(f"[`{name}`]({shown[path]}.md#{path})")
            continue
        options = f'    options:\n      heading: "{module}.{name}"\n      toc_label: "{name}"'
        if home in WITHOUT_MEMBERS:
            options += "\n      members: false"
        parts.append(f"::: {path}\n{options}")
    if linked:
        parts.insert(2, f"Also importable from here: {', '.join(linked)}.")
    return "\n\n".join(parts) + "\n"


def plain_roles(docstring: str) -> str:
    """Return a docstring with the roles of Sphinx as plain code: ``:class:`Batch``` is `Batch`."""
    return _ROLE.sub(r"`\1`", docstring)


def notebook_text(path: Path) -> str:
    """Return the cells of a notebook as a page."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"
