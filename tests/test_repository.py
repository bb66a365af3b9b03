"""What holds for the whole repository: which way imports point, what follows from a name, what the lock says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from headrace.contract.load import load_pipelines

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "headrace"
PIPELINES = load_pipelines(ROOT / "pipelines")
MAX_LINES = 400
ENTRY_POINTS = {"__init__", "main", "batch"}  # of spark_jobs/: what spark-submit starts; all else there are transforms

# Who may import whom, inside the package. Files that a user starts come last: nothing imports them.
ALLOWED = {
    "errors": set[str](),
    "contract": {"errors"},
    "access": {"errors"},
    "store": {"errors", "contract", "access"},
    "driver": {"errors", "contract", "access", "store"},
    "batch": {"errors", "contract", "access", "store", "driver"},
    "operations": {"errors", "contract", "access", "store"},
    "orchestration": {"errors", "contract", "access", "store", "operations"},
    "cluster": {"errors", "contract", "access", "store", "operations"},
    "local": {"errors", "contract", "access", "store", "operations", "orchestration"},
    "demo": {"errors", "contract", "access", "store", "operations", "local"},
    "cli": {"errors", "contract", "access", "store", "operations", "local", "demo"},
    "spark_jobs": {"errors", "contract", "access", "store", "driver", "batch"},
    "dags": {"errors", "contract", "store", "operations", "orchestration"},
}


def _python_files(*folders: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [ROOT / name for name in sorted(listed) if name.endswith(".py") and (ROOT / name).exists()]


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that an arrow can be seen"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _part(path: Path) -> str:
    """Return the part of the repository that a file belongs to: a package of headrace, or a top folder."""
    if not path.is_relative_to(SOURCES):
        return path.relative_to(ROOT).parts[0]
    return path.relative_to(SOURCES).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", _python_files("src", "spark_jobs", "dags"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_one_way(path: Path) -> None:
    part = _part(path)
    if part == "__init__":
        return
    names = [name.split(".") for name in _imports(path)]
    used = {name[1] for name in names if name[0] == "headrace" and len(name) > 1} - {"__version__", part}
    used |= {name[0] for name in names if name[0] in ("dags", "spark_jobs", "tests", "bench")}
    used -= {part}
    assert used <= ALLOWED[part], f"{part} may not import {sorted(used - ALLOWED[part])}"


def _modules() -> dict[str, Path]:
    """Return every module of headrace by its dotted name."""
    modules = {}
    for path in _python_files("src"):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = _modules()
    imports = {
        name: {used if used in modules else used.rpartition(".")[0] for used in _imports(path)} & set(modules) - {name}
        for name, path in modules.items()
    }
    for _ in modules:  # take away what imports nothing that is left, as often as there are modules
        leaves = {name for name, used in imports.items() if not used}
        imports = {name: used - leaves for name, used in imports.items() if name not in leaves}
    assert imports == {}


def test_the_contract_touches_no_file_but_where_pipeline_files_are_loaded_and_their_schema_is_written() -> None:
    touching = re.compile(
        r"\bopen\(|read_text|write_text|read_bytes|write_bytes|iterdir|glob\(|fsspec|socket|urllib\.request"
    )
    touches = {path.stem for path in _python_files("src/headrace/contract") if touching.search(path.read_text())}
    assert touches == {"files", "load", "schema"}


def test_where_a_path_lies_is_asked_in_one_place() -> None:
    # fsspec alone would not know the object store's login, nor its ways (ADR 0023).
    asking = {path for path in _python_files("src", "spark_jobs", "dags", "plugins") if "url_to_fs" in path.read_text()}
    assert asking == {SOURCES / "store" / "small_files.py"}


def test_great_expectations_is_imported_inside_functions_only() -> None:
    # It takes 7 to 12 seconds, which every worker and every DAG file would pay.
    for path in _python_files("src", "dags"):
        for node in ast.parse(path.read_text()).body:
            assert not (isinstance(node, ast.Import) and any("great_expect" in alias.name for alias in node.names)), (
                path
            )
            assert not (isinstance(node, ast.ImportFrom) and "great_expect" in (node.module or "")), path


KINDS_OF_SINKS = {"CassandraSink", "KafkaSink", "FilesSink"}


def _kinds_tested(test: ast.expr) -> set[str]:
    """Return the kinds of sinks that a condition asks for by isinstance."""
    calls = [node for node in ast.walk(test) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    asked = [call.args[1] for call in calls if getattr(call.func, "id", "") == "isinstance"]
    return {kind.id for kind in asked if isinstance(kind, ast.Name)} & KINDS_OF_SINKS


def _kinds_told_apart(body: list[ast.stmt]) -> set[str]:
    """Return the kinds that the if statements of one block tell apart, with their elif."""
    kinds: set[str] = set()
    for statement in body:
        while isinstance(statement, ast.If):
            kinds |= _kinds_tested(statement.test)
            following = statement.orelse
            statement = following[0] if len(following) == 1 else ast.Pass()
    return kinds


@pytest.mark.parametrize("path", _python_files("src"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_branch_over_kinds_of_sinks_is_a_match_so_that_mypy_names_what_a_new_kind_needs(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            assert len(_kinds_told_apart(body)) <= 1, f"{path}:{body[0].lineno}: use match and assert_never"


def _public_names(path: Path) -> list[str]:
    """Return the functions that a module of transforms makes public: by def, or by a second name of one."""
    public = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            public.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            public += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in public if not name.startswith("_")]


def test_every_pipeline_has_its_transforms_and_no_transforms_are_without_pipeline() -> None:
    modules = {path.stem for path in (ROOT / "spark_jobs").glob("*.py")} - ENTRY_POINTS
    assert modules == set(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_query_has_one_function_of_its_name_and_parameters(name: str) -> None:
    path = ROOT / "spark_jobs" / f"{name}.py"
    assert sorted(_public_names(path)) == sorted(PIPELINES[name].queries)
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    for query_name, query in PIPELINES[name].queries.items():
        if query_name in functions:
            parameters = [argument.arg for argument in functions[query_name].args.args]
            assert parameters == [*query.sources, *query.dimensions], f"{name}.{query_name}"


def _literals(path: Path) -> Iterator[str]:
    """Yield the strings of a file that are code, not documentation."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


# What may be written in one file only: everybody else asks that file's functions.
DERIVED = {
    re.compile(r"_dead_letters|^headrace\.\{?|(^|\W)archive_"): SOURCES / "contract" / "names.py",
    re.compile(r"(^|/)checkpoints?/|(^|/)ledger$|heartbeat\.json|manifest\.json"): SOURCES / "store" / "paths.py",
}
# Header names and metrics begin with the project's name too; they name no group.
NOT_DERIVED = re.compile(r"^headrace\.(id|reason|query|generation|batch|topic|partition|offset|[a-z_.]*)$")


@pytest.mark.parametrize("pattern", DERIVED, ids=lambda pattern: DERIVED[pattern].stem)
def test_topics_groups_and_checkpoints_are_derived_in_one_place(pattern: re.Pattern[str]) -> None:
    written = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in _python_files("src", "spark_jobs", "dags")
        if path != DERIVED[pattern]
        for text in _literals(path)
        if pattern.search(text) and not NOT_DERIVED.match(text) and " " not in text
    }
    assert written == set()


def test_the_names_of_a_pipelines_file_are_written_nowhere_else() -> None:
    """Topics and tables of the four pipelines stand in the pipeline files, not in the code that serves all."""
    topics = {topic for pipeline in PIPELINES.values() for topic in pipeline.sources}
    topics |= {
        sink.topic for p in PIPELINES.values() for q in p.queries.values() for sink in q.sinks if sink.kind == "kafka"
    }
    words = topics | set(PIPELINES)
    generic = [
        SOURCES / "contract",
        SOURCES / "store",
        SOURCES / "driver",
        SOURCES / "batch",
        ROOT / "spark_jobs" / "main.py",
        ROOT / "spark_jobs" / "batch.py",
    ]
    for path in _python_files("src", "spark_jobs"):
        if any(path == place or place in path.parents for place in generic):
            assert not words & set(_literals(path)), f"{path}: {sorted(words & set(_literals(path)))}"


@pytest.mark.parametrize(
    "path", _python_files("src", "spark_jobs", "dags", "tests", "bench"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


LOCK = (ROOT / "requirements.lock").read_text()


def test_the_lock_names_no_address_and_every_package_has_a_hash() -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ ", LOCK)
    packages = re.split(r"\n(?=[A-Za-z0-9])", "\n" + LOCK)[1:]
    assert len(packages) > 100
    assert [package.split("\n")[0] for package in packages if "--hash=sha256:" not in package] == []


def test_the_lock_keeps_pyspark_client_away_which_would_overwrite_pyspark() -> None:
    (line,) = re.findall(r"^pyspark-client==.*$", LOCK, re.MULTILINE)
    assert "sys_platform == 'never'" in line
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("pyspark-client")


def test_pyspark_is_the_one_of_the_lock_and_can_be_imported() -> None:
    (locked,) = re.findall(r"^pyspark==(\S+)", LOCK, re.MULTILINE)
    code = "import pyspark, pyspark.sql; print(pyspark.__version__, pyspark.__file__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == locked == metadata.version("pyspark")
    assert "connect" not in Path(said[1]).parent.name


def test_no_file_names_a_folder_of_a_machine_or_holds_a_private_key() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = re.compile(rb"/(home|Users)/[a-z]+/|-----BEGIN [A-Z ]*PRIVATE KEY|" + re.escape(str(ROOT).encode()))
    wrong = [name for name in listed if (ROOT / name).is_file() and forbidden.search((ROOT / name).read_bytes())]
    assert [name for name in wrong if name != "tests/test_repository.py"] == []


def test_no_test_replaces_the_sleep_or_the_clock_of_all_threads() -> None:
    """A thread that another test left (py4j has one for garbage) would call what is put there, and end the next test."""
    replaced = re.compile(r"setattr\((\w+\.)*time, \"(sleep|monotonic)\"")
    tests = (ROOT / "tests").rglob("*.py")
    assert [str(path.relative_to(ROOT)) for path in tests if replaced.search(path.read_text())] == []
