"""One name, one meaning (CONTRIBUTING.md): a name says what the thing is. Some words only say that there is one."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
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


SCRIPT = re.compile(
    r"\bfor\s+(?P<looped>\w+)\s+in\b"
    r"|(?<![\w$./{-])(?P<assigned>\w+)=(?!=)"
    r"|\b(?:local|read)\s+(?:-\w+\s+)*(?P<read>\w+)"
)


def script_names(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each variable of a shell script, or of Terraform, and of Python in it; comments are left out."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in SCRIPT.finditer(line.partition("# ")[0]):
            yield number, next(filter(None, match.groups()))


def shell_of(markdown: str) -> str:
    """Return a page with only the lines of its code blocks, indented or fenced; the other lines are empty."""
    fenced, lines = False, []
    for line in markdown.splitlines():
        fenced ^= line.lstrip().startswith("```")
        lines.append(line if fenced or line.startswith("    ") else "")
    return "\n".join(lines)


def scripts() -> Iterator[tuple[str, str]]:
    """Yield name and text of every shell script, Terraform file and Markdown page of the repository, of pages the code."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if name.endswith(".md"):
            yield name, shell_of(path.read_text())
        elif name.endswith((".tf", ".hcl")) or name == "Makefile" or (path.is_file() and _is_shell(path)):
            yield name, path.read_text()


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return re.match(rb"#!.*\b(ba)?sh\b", file.readline(80)) is not None


def test_a_variable_of_a_script_says_what_the_thing_is() -> None:
    named = {(name, line, variable) for name, text in scripts() for line, variable in script_names(text)}
    vague = [f"{name}:{line} {variable}" for name, line, variable in sorted(named) if variable in VAGUE]
    assert vague == [], "name the thing: " + "; ".join(vague)
    assert {"tests/cluster/run", "images/build", "docs/howto/deploy.md", "infra/terraform/variables.tf"} <= {
        name for name, _, _ in named
    }


def test_a_vague_name_in_a_script_or_in_a_block_of_a_page_is_seen() -> None:
    script = "own='' given=''\nfor each in a b; do echo $each; done  # for wish in prose\nread -r told\nlocal whole=1 found=2\n"
    seen = [(line, name) for line, name in script_names(script) if name in VAGUE]
    assert seen == [(1, "own"), (2, "each"), (3, "told"), (4, "whole"), (4, "found")]
    page = "Look for each in turn.\n\n    for each in a; do\n\n```bash\nown=1\n```\nown=2 in prose\n"
    assert [(line, name) for line, name in script_names(shell_of(page)) if name in VAGUE] == [(3, "each"), (6, "own")]


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


def test_two_classes_do_not_have_one_name() -> None:
    defined = Counter(
        node.name
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in defined.items() if count > 1} == {}


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
