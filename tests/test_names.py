"""One name, one meaning (CONTRIBUTING.md): a name says what the thing is. Some words only say that there is one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bench", "chaos", "dags", "helm", "images", "plugins", "spark_jobs", "src", "tests")
VAGUE = {"deed", "each", "found", "lives", "own", "told", "whole", "wish"}
EXCEPTIONS = {
    ("src/headrace/operations/lineage/emit.py", "told"): "OpenLineage takes the JSON key of a facet from its attribute",
}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of whatever a file names: variables, arguments, attributes, functions, classes, imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.arg():
                yield node.lineno, node.arg
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.alias():
                yield node.lineno, node.asname or node.name.rpartition(".")[2]
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def vague_names() -> list[tuple[str, int, str]]:
    """Return file, line and name of all vague names, of which the exceptions are some."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [
        (path.relative_to(ROOT).as_posix(), line, name)
        for path in paths
        for line, name in [(0, path.stem), *names(ast.parse(path.read_text()))]
        if name.strip("_") in VAGUE
    ]


def test_a_name_says_what_the_thing_is() -> None:
    vague = [f"{path}:{line} {name}" for path, line, name in vague_names() if (path, name) not in EXCEPTIONS]
    assert vague == [], "name the thing: " + "; ".join(vague)


def test_every_exception_is_still_needed() -> None:
    assert {(path, name) for path, _, name in vague_names()} >= EXCEPTIONS.keys()


def test_a_vague_name_of_every_kind_is_seen() -> None:
    planted = """
import found
from a import b as told
class Kept:
    own: int = 0
    def lives(self, wish, *, deed=1, **whole):
        self._found = [each for each in wish]
        try:
            (told := lambda each: each)
        except ValueError as own:
            pass
        with open("x") as whole:
            pass
async def told(): ...
match 1:
    case [found, *each]: ...
    case wish: ...
"""
    seen = [(line, name) for line, name in names(ast.parse(planted)) if name.strip("_") in VAGUE]
    assert sorted(seen) == [
        (2, "found"), (3, "told"), (5, "own"), (6, "deed"), (6, "lives"), (6, "whole"), (6, "wish"),
        (7, "_found"), (7, "each"), (9, "each"), (9, "told"), (10, "own"), (12, "whole"), (14, "told"),
        (16, "each"), (16, "found"), (17, "wish"),
    ]  # fmt: skip
