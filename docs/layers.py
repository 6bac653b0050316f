"""Reads who imports whom, checks it against the layers, and draws them.

The layers are defined here once; ``tests/test_architecture.py`` holds the sources to them.

    python docs/layers.py            # writes docs/layers.svg
    python docs/layers.py --print    # rooms, their modules, arrows, circles, upward imports

A room is a part of the product: a folder right below one of the two packages, or a module that
lies there. Imports of a room point to layers below its own.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "dlrmjit").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
PICTURE = ROOT / "docs" / "layers.svg"
MOST_FILES = 16  # of a folder, without its __init__.py

CLI = "dlrmjit.cli"
SHIMS = {  # modules that only start a command: ``python -m dlrmjit.train``
    f"dlrmjit.{name}"
    for name in (
        *("train", "prepare", "convert", "evaluate", "predict", "export_embeddings", "plan"),
        *("tune", "__main__"),
    )
}
LAYERS: list[dict[str, str]] = [  # from the top: rooms, and what they are for
    {CLI: "flags, commands, reports", "dlrmjit": "the public names"},
    {
        "dlrmjit.doctor": "examines a machine",
        "dlrmjit.serve": "an inference server",
        "dlrmjit.export": "models as ONNX",
        "dlrmjit.embed": "vectors of images",
        "dlrmjit.warm": "kernels compiled ahead",
        "dlrmjit.sklearn": "an estimator",
        "dlrmjit.torch": "models in PyTorch",
        "dlrmjit.report": "pages of logs",
        "dlrmjit.progress": "a progress bar",
    },
    {"dlrmjit.advice": "how to train a model"},
    {"dlrmjit.training": "epochs, steps, tests, saving"},
    {"dlrmjit.parallel": "ranks, plans, exchange"},
    {
        "dlrmjit.optim": "optimizers, rates",
        "dlrmjit.checkpoint": "formats of saved models",
        "dlrmjit.metrics": "exact metrics",
        "dlrmjit.ranking": "lists and their metrics",
    },
    {"dlrmjit.model": "the DLRM and its graph"},
    {"dlrmjit.data": "sources, formats, prepared sets", "dlrmjit.perf": "profile, roofline"},
    {"dlrmjit.ops": "operations of both backends"},
    {"dlrmjit.autograd": "the tape"},
    {
        "dlrmjit.config": "settings as values",
        "dlrmjit.files": "files created, replaced, removed",
    },
    {"dlrmjit.architecture": "models as values"},
    {"dlrmjit.launchers": ""},
    dict.fromkeys((f"dlrmjit.{name}" for name in ("errors", "knobs", "precision", "version")), ""),
    {
        "dlrmjit_kernels": "the public kernels",
        "dlrmjit_kernels.inspect": "micro-kernels to look at",
    },
    {"dlrmjit_kernels.convolution": "convolutions, pooling"},
    {
        "dlrmjit_kernels.layers": "what a network calls",
        "dlrmjit_kernels.lists": "layers over rows of lists",
        "dlrmjit_kernels.auc": "ranking of scores",
        "dlrmjit_kernels.machine_peaks": "measured ceilings",
    },
    {"dlrmjit_kernels.matmul": "loops around the tile"},
    {
        "dlrmjit_kernels.matrix": "layouts, copies",
        "dlrmjit_kernels.embedding": "tables, lookups, updates",
        "dlrmjit_kernels.ids": "ids without a vocabulary",
        "dlrmjit_kernels.list_metrics": "ranking within lists",
    },
    {
        "dlrmjit_kernels.optimizers": "optimizers, declared once",
        "dlrmjit_kernels.data": "text, records, vocabularies",
    },
    {"dlrmjit_kernels.microkernels": "one emitter each, with contract"},
    {"dlrmjit_kernels.calls": "kernels run in a row"},
    {
        "dlrmjit_kernels.codegen": "LLVM IR: vocabulary, engine",
        "dlrmjit_kernels.optimizer_base": "what optimizers share",
    },
    {"dlrmjit_kernels.runtime": "compile, threads, memory, target"},
    dict.fromkeys(
        (f"dlrmjit_kernels.{name}" for name in ("compile_events", "errors", "knobs", "precision")),
        "",
    ),
]
SHARED = {room for layer in LAYERS for room, purpose in layer.items() if not purpose}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file; of a package, the name without ``__init__``."""
    base = ROOT / "kernels" if path.is_relative_to(ROOT / "kernels") else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the room of a module: ``dlrmjit.ops.jit.mlp`` is in ``dlrmjit.ops``."""
    room = ".".join(module.split(".")[:2])
    return CLI if room in SHIMS or module.endswith(".__main__") else room


@cache
def level_of(room: str) -> int:
    """Return the layer of a room, counted from the top; a room without a layer is an error."""
    for level, layer in enumerate(LAYERS):
        if room in layer:
            return level
    raise LookupError(f"{room} has no layer: add it to LAYERS in docs/layers.py")


MODULES = {module_name(path) for path in SOURCES}


def imports(path: Path, for_types: bool = True) -> Iterator[str]:
    """Yield the product's own modules that a file imports, also inside functions.

    ``for_types`` includes those that only type checkers import.
    """
    tree = ast.parse(path.read_text())
    skipped = set() if for_types else {id(node) for node in _type_checking(tree)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        if id(node) not in skipped:
            yield from (n for n in names if n.split(".")[0] in ("dlrmjit", "dlrmjit_kernels"))


def _type_checking(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes below ``if TYPE_CHECKING``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from ast.walk(node)


def module_arrows(for_types: bool = True) -> dict[str, set[str]]:
    """Return for every module the modules that it imports."""
    return {module_name(path): set(imports(path, for_types)) for path in SOURCES}


def room_arrows() -> dict[str, set[str]]:
    """Return for every room the other rooms that it imports."""
    arrows: dict[str, set[str]] = {room: set() for layer in LAYERS for room in layer}
    for module, imported in module_arrows().items():
        room = room_of(module)
        arrows.setdefault(room, set()).update({room_of(name) for name in imported} - {room})
    return arrows


def upward(arrows: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows from a room to a layer above its own."""
    pairs = [(a, b) for a in sorted(arrows) for b in sorted(arrows[a])]
    return [(a, b) for a, b in pairs if level_of(b) < level_of(a)]


def reachable(arrows: dict[str, set[str]], start: Iterable[str]) -> set[str]:
    """Return all rooms that can be reached from some, those included."""
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        room = waiting.pop()
        if room not in seen:
            seen.add(room)
            waiting += arrows.get(room, ())
    return seen


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of nodes that import each other in a circle, each sorted."""
    below = {node: reachable(arrows, arrows[node]) for node in arrows}
    groups = {
        tuple(sorted(b for b in arrows if b in below[a] and a in below[b]))
        for a in arrows
        if a in below[a]
    }
    return [list(group) for group in sorted(groups)]


def essential(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that do not follow from others: a to c is left out if a to b to c exists.

    Raises ValueError for a graph with a circle.
    """
    if found := circles(arrows):
        raise ValueError(f"these import each other, so that no layers fit them: {found}")
    return {
        room: {b for b in below if b not in reachable(arrows, _following(arrows, below - {b}))}
        for room, below in arrows.items()
    }


def _following(arrows: dict[str, set[str]], rooms: set[str]) -> set[str]:
    return {below for room in rooms for below in arrows[room]} | rooms


def crowded_folders(roots: Iterable[Path]) -> list[str]:
    """Return a line for every folder with more modules than ``MOST_FILES``."""
    lines = []
    for root in roots:
        for folder in sorted([root, *(inner for inner in root.rglob("*") if inner.is_dir())]):
            count = sum(file.name != "__init__.py" for file in folder.glob("*.py"))
            if count > MOST_FILES:
                lines.append(f"{folder.relative_to(ROOT)} has {count} modules")
    return lines


def report() -> str:
    """Return what ``--print`` shows."""
    arrows = room_arrows()
    rooms = [room_of(module) for module in MODULES]
    lines = []
    for layer in LAYERS:
        for room in layer:
            below = ", ".join(sorted(arrows[room])) or "-"
            lines.append(f"{room:30} {rooms.count(room):3} modules -> {below}")
    for name, package in (("dlrmjit", "dlrmjit"), ("dlrmjit_kernels", "kernels")):
        inner = {a: b for a, b in arrows.items() if a.split(".")[0] == name}
        count = sum(len(b & inner.keys()) for b in inner.values())
        crowd = crowded_folders([ROOT / package])
        lines.append(f"{name}: {len(inner)} rooms, {count} arrows between them, crowded: {crowd}")
    lines.append(f"arrows between all rooms: {sum(map(len, arrows.values()))}")
    lines.append(f"circles of rooms: {circles(arrows)}")
    lines.append(f"upward imports: {upward(arrows)}")
    return "\n".join(lines)


# The picture: boxes in rows by layer; long arrows pass through the rows between as thin slots.

ROW, BOX, GAP, SLOT = 74, 46, 34, 14  # heights of a row and a box, spaces between boxes and lanes
LEFT, TOP = 178, 64  # the strip of shared modules is to the left of the rows
INK, PALE = "#24292f", "#57606a"
COLOURS = {"dlrmjit": ("#eef4fb", "#2f6fb3"), "dlrmjit_kernels": ("#fdf3e7", "#c2701c")}


@dataclass(eq=False)
class Node:
    """A box, or the slot (no room) through which an arrow passes a row."""

    row: int
    room: str = ""
    purpose: str = ""
    x: float = 0.0  # of the centre
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)

    @property
    def width(self) -> float:
        """Pixels, estimated from the text."""
        if not self.room:
            return SLOT
        return max(8.3 * len(_label(self.room)), 5.9 * len(self.purpose)) + 28

    @property
    def y(self) -> float:
        """Top edge, in pixels."""
        extra = 40 if self.package == "dlrmjit_kernels" else 0
        return TOP + 30 + ROW * self.row + extra

    @property
    def package(self) -> str:
        """The package in whose panel the node is drawn."""
        return "dlrmjit_kernels" if self.row >= _kernel_row() else "dlrmjit"


def _label(room: str) -> str:
    return room.rpartition(".")[2]


def _rows() -> list[dict[str, str]]:
    """The layers that are drawn as rows: all but the shared modules."""
    return [layer for layer in LAYERS if not layer.keys() & SHARED]


@cache
def _kernel_row() -> int:
    return next(i for i, layer in enumerate(_rows()) if "dlrmjit_kernels" in layer)


def _graph() -> list[list[Node]]:
    """The nodes of every row, slots included, each linked to its neighbours above and below."""
    rows = [[Node(i, *item) for item in layer.items()] for i, layer in enumerate(_rows())]
    boxes = {node.room: node for row in rows for node in row}
    drawn = {a: b - SHARED for a, b in room_arrows().items() if a not in SHARED}
    kept = essential(drawn)
    for upper in boxes.values():
        for room in sorted(kept[upper.room], key=list(boxes).index):
            last = upper
            for row in range(upper.row + 1, boxes[room].row):
                slot = Node(row)
                rows[row].append(slot)
                _link(last, slot)
                last = slot
            _link(last, boxes[room])
    return rows


def _link(upper: Node, lower: Node) -> None:
    upper.below.append(lower)
    lower.above.append(upper)


def _crossings(rows: list[list[Node]]) -> int:
    """Number of pairs of arrows that cross between two rows."""
    count = 0
    for upper, lower in pairwise(rows):
        pairs = [(i, lower.index(n)) for i, node in enumerate(upper) for n in node.below]
        count += sum(a < c and b > d for a, b in pairs for c, d in pairs)
    return count


def _order(rows: list[list[Node]]) -> list[list[Node]]:
    """Sort each row by the middle of its neighbours, and return the order with fewest crossings."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(24):
        down = sweep % 2 == 0
        for i in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            positions = _positions(rows[i - 1] if down else rows[i + 1]) | _positions(rows[i])
            rows[i].sort(key=lambda n: _middle(n, down, positions))
        if _crossings(rows) < fewest:
            best, fewest = [list(row) for row in rows], _crossings(rows)
    return best


def _positions(row: list[Node]) -> dict[Node, float]:
    return {node: (i + 0.5) / len(row) for i, node in enumerate(row)}


def _middle(node: Node, down: bool, positions: dict[Node, float]) -> float:
    neighbours = node.above if down else node.below
    near = [positions[n] for n in neighbours] or [positions[node]]
    return sum(near) / len(near)


def _position(rows: list[list[Node]]) -> None:
    """Give every node an x near to those of its neighbours, without overlaps."""
    centre = 0.0
    for row in rows:
        _spread(row, [centre] * len(row))
    for _ in range(200):
        for row in [*rows, *rows[::-1]]:
            _spread(row, [_wanted(node, centre) for node in row])
    left = min(node.x - node.width / 2 for row in rows for node in row)
    for row in rows:
        for node in row:
            node.x += LEFT - left
            if node.above and not node.room and abs(node.x - node.above[0].x) < SLOT / 2:
                node.x = node.above[0].x  # no wobble of a few pixels


def _wanted(node: Node, centre: float) -> float:
    """Return the mean of the neighbours' x; a long arrow follows its own slots, to be straight."""
    near = [(n.x, 1.0 if node.room or n.room else 12.0) for n in (*node.above, *node.below)]
    near.append((centre, 0.4 if node.room else 0.1))
    return sum(x * weight for x, weight in near) / sum(weight for _, weight in near)


def _spread(row: list[Node], wanted: list[float]) -> None:
    """Put nodes as near to the wanted centres as their order and widths allow: least squares.

    Pool adjacent violators: nodes that would overlap form a group that moves as one.
    """
    offsets = [0.0]
    for left, right in pairwise(row):
        gap = GAP if left.room and right.room else SLOT
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    groups: list[tuple[float, float, int]] = []  # mean origin, weight, and number of nodes
    for node, offset, centre in zip(row, offsets, wanted, strict=True):
        origin, weight, number = centre - offset, 1.0 if node.room else 5.0, 1
        while groups and groups[-1][0] > origin:
            other, more, count = groups.pop()
            origin = (origin * weight + other * more) / (weight + more)
            weight, number = weight + more, number + count
        groups.append((origin, weight, number))
    origins = [origin for origin, _, number in groups for _ in range(number)]
    for node, offset, origin in zip(row, offsets, origins, strict=True):
        node.x = origin + offset


def _port(node: Node, neighbour: Node, neighbours: list[Node]) -> float:
    """Return the x at which an arrow meets a box, so that arrows of one side keep apart."""
    if not node.room:
        return node.x
    order = sorted(neighbours, key=lambda n: n.x)
    step = min(26.0, node.width * 0.7 / len(order))
    return node.x + (order.index(neighbour) - (len(order) - 1) / 2) * step


def _arrow(upper: Node, first: Node) -> str:
    """Return the path from a box through slots to the box that it leads to."""
    x, y = _port(upper, first, upper.below), upper.y + BOX
    path, last, node = f"M{x:.0f} {y:.0f}", upper, first
    while True:
        end = _port(node, last, node.above)
        top = node.y - (5 if node.room else 0)
        middle = (y + top) / 2
        path += f" C{x:.0f} {middle:.0f} {end:.0f} {middle:.0f} {end:.0f} {top:.0f}"
        if node.room:
            kind = upper.package if upper.package == node.package else "between"
            return f'<path d="{path}" class="{kind}" marker-end="url(#{kind}-head)"/>'
        x, y = end, node.y + BOX
        path += f" V{y:.0f}"
        last, node = node, node.below[0]


def _box(node: Node) -> str:
    fill, edge = "#ffffff", COLOURS[node.package][1]
    left = node.x - node.width / 2
    return (
        f'<rect x="{left:.0f}" y="{node.y:.0f}" width="{node.width:.0f}" height="{BOX}" rx="7" '
        f'fill="{fill}" stroke="{edge}" stroke-width="1.5"/>\n'
        f'<text x="{node.x:.0f}" y="{node.y + 19:.0f}" class="room">{_label(node.room)}</text>\n'
        f'<text x="{node.x:.0f}" y="{node.y + 35:.0f}" class="use">{escape(node.purpose)}</text>'
    )


def _panel(package: str, rows: list[list[Node]], width: float) -> str:
    """Return the background of a package, its title, and the strip of its shared modules."""
    fill, edge = COLOURS[package]
    inner = [node for row in rows for node in row if node.package == package]
    top, bottom = inner[0].y - 34, inner[-1].y + BOX + 14
    shared = sorted(_label(room) for room in SHARED if room.split(".")[0] == package)
    lines = [
        f'<rect x="16" y="{top:.0f}" width="{width - 32:.0f}" height="{bottom - top:.0f}" rx="12" '
        f'fill="{fill}"/>',
        f'<text x="32" y="{top + 24:.0f}" class="title" fill="{edge}">{package}</text>',
        f'<rect x="32" y="{top + 40:.0f}" width="{LEFT - 64}" height="{bottom - top - 54:.0f}" '
        f'rx="7" fill="#ffffff" stroke="{edge}" stroke-width="1.5" stroke-dasharray="4 3"/>',
    ]
    middle = (top + bottom) / 2 - 10 * len(shared)
    for i, name in enumerate([*shared, "", "every room", "may import", "these"]):
        kind = "room" if i < len(shared) else "use"
        x, y = LEFT / 2, middle + 20 * i
        lines.append(f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{name}</text>')
    return "\n".join(lines)


def _style() -> str:
    """Return the style sheet, and a head of each colour of arrows."""
    colours = {package: edge for package, (_, edge) in COLOURS.items()} | {"between": INK}
    lines = [
        f'text {{ font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; fill: {INK}; }}',
        ".room { font-size: 14px; font-weight: bold; text-anchor: middle; }",
        f".use {{ font-size: 11.5px; fill: {PALE}; text-anchor: middle; }}",
        ".title { font-size: 15px; font-weight: bold; }",
        f".note {{ font-size: 12px; fill: {PALE}; }}",
        "path { fill: none; stroke-width: 1.5; }",
        *(f".{name} {{ stroke: {colour}; }}" for name, colour in colours.items()),
    ]
    heads = [
        f'<marker id="{name}-head" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="5.5" '
        f'markerHeight="5.5" orient="auto"><path d="M0 0 L8 4 L0 8 z" style="fill: {colour}"/>'
        "</marker>"
        for name, colour in colours.items()
    ]
    return "\n".join(["<style>", *lines, "</style>", "<defs>", *heads, "</defs>"])


def picture() -> str:
    """Return the SVG of the layers; the same sources give the same text."""
    rows = _order(_graph())
    _position(rows)
    nodes = [node for row in rows for node in row]
    width = max(node.x + node.width / 2 for node in nodes) + 46
    height = nodes[-1].y + BOX + 34
    note = (
        "An arrow means: imports. Arrows that follow from others are left out; none points upward. "
        "Black: from the product to the kernels."
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">',
        _style(),
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="32" y="34" class="note">{note}</text>',
        *(_panel(package, rows, width) for package in COLOURS),
        *(_arrow(node, below) for node in nodes if node.room for below in node.below),
        *(_box(node) for node in nodes if node.room),
        "</svg>\n",
    ]
    return "\n".join(parts)


def main() -> None:
    """Write the picture, or print what there is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--print", action="store_true", help="print rooms and arrows instead")
    if parser.parse_args().print:
        print(report())
        return
    try:
        PICTURE.write_text(picture())
    except (LookupError, ValueError) as error:
        parser.exit(1, f"docs/layers.py: {error.args[0]}\n")


if __name__ == "__main__":
    main()
