"""What a page or a docstring names is there: files, modules, DAGs, names of code. Commands are in test_printed_commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from headrace.contract.names import DRIVER_ACCOUNT

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "pipelines" / "README.md"]
    if page.name != "CHANGELOG.md"
)
TOPS = "src|tests|dags|docs|helm|infra|images|bench|spark_jobs|pipelines|plugins|expectations"
A_PATH = re.compile(rf"`((?:{TOPS})/[\w./-]+\.\w+)`")
A_DAG = re.compile(r"DAGs? `(\w+)`")
NAMES_OF_A_FILE = re.compile(r"`([\w/]+\.py)` \((`[\w.]+`(?:, `[\w.]+`)*)\)")
MADE = {"pipelines/fridges.yaml", "spark_jobs/fridges.py"}
"""Files that a page tells a reader to write."""


@cache
def dag_ids() -> set[str]:
    """Return the ids of the DAG files, and those of the refreshed dimensions."""
    ids = {dag_id for path in ROOT.glob("dags/*.py") for dag_id in re.findall(r'DAG\(\s*"(\w+)"', path.read_text())}
    for path in ROOT.glob("pipelines/*.yaml"):
        dimensions = yaml.safe_load(path.read_text()).get("dimensions") or {}
        ids |= {f"{name}_refresh" for name, dimension in dimensions.items() if dimension.get("refresh") is not None}
    return ids


def named_in(page: Path) -> Iterator[str]:
    """Yield each thing that a page names and that is not there."""
    text = page.read_text()
    for path in A_PATH.findall(text):
        if path not in MADE and not (ROOT / path).exists():
            yield f"the file {path}"
    for dag in A_DAG.findall(text):
        if dag not in dag_ids():
            yield f"the DAG {dag}"
    for path, names in NAMES_OF_A_FILE.findall(text):
        files = [ROOT / path] if (ROOT / path).exists() else list(ROOT.glob(f"src/**/{path}"))
        code = "\n".join(file.read_text() for file in files)
        for name in re.findall(r"`([\w.]+)`", names):
            if not re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", code):
                yield f"{name} of {path}"


A_REFERENCE = re.compile(r"`(?:headrace\.)?(?:\w+\.)*([a-z][a-z0-9_]*)\.(\w+)`")
FOREIGN = {"system_auth", "headrace_source", "headrace", "common"}
"""A keyspace, a column, the prefix of our headers, a Java package: names like those of our modules."""


@cache
def modules() -> dict[str, list[Path]]:
    """Return name -> files of the modules and packages that code names."""
    files: dict[str, list[Path]] = {}
    for path in [*ROOT.glob("src/headrace/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        files.setdefault(path.parent.name if path.name == "__init__.py" else path.stem, []).append(path)
    return files


def missing_in(code: str) -> Iterator[str]:
    """Yield each `module.name` in the text of a file whose module, or whose name in it, does not exist.

    A name without `_` that is no module of ours may be a variable or a setting of another program.
    """
    for module, name in A_REFERENCE.findall(code):
        files = modules().get(module, [])
        variable = re.search(rf"\b{module}\b(?!\.)", re.sub(r"`[^`]*`", "", code))
        known = variable or module in FOREIGN or not (files or "_" in module)
        if not known and not any(has(file, name) for file in files):
            yield f"{module}.{name}"


def has(file: Path, name: str) -> bool:
    """Return whether a module has a name, or a package a module."""
    inside = [path for path in (file.parent / name, file.parent / f"{name}.py") if path.exists()]
    return bool(inside) if file.name == "__init__.py" else bool(re.search(rf"\b{name}\b", file.read_text()))


@pytest.mark.parametrize(
    "package", sorted(path.name for path in (ROOT / "src" / "headrace").iterdir() if path.is_dir())
)
def test_what_a_docstring_names_is_there(package: str) -> None:
    files = sorted((ROOT / "src" / "headrace" / package).rglob("*.py"))
    missing = {str(path.relative_to(ROOT)): list(missing_in(path.read_text())) for path in files}
    assert {path: names for path, names in missing.items() if names} == {}


def test_a_docstring_with_a_former_name_of_a_module_or_function_is_found() -> None:
    text = "`sink_frames.rows`, `sink_frames.nobody`, `reconcile_sinks.rows`, `sasl.jaas.config`, `store.paths`"
    assert list(missing_in(text)) == ["sink_frames.nobody", "reconcile_sinks.rows"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    assert list(named_in(page)) == []


def test_a_page_that_names_what_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("The DAG `nothing`, `src/headrace/nothing.py`, and `contract/names.py` (`principal`, `nobody`).\n")
    assert list(named_in(page)) == [
        "the file src/headrace/nothing.py",
        "the DAG nothing",
        "nobody of contract/names.py",
    ]


def test_the_account_of_drivers_is_the_one_that_the_names_page_says() -> None:
    row = next(
        line for line in (ROOT / "pipelines" / "README.md").read_text().splitlines() if "service account" in line
    )
    assert f"`{DRIVER_ACCOUNT}`" in row


def test_the_entry_point_of_finite_work_names_every_duty() -> None:
    tree = ast.parse((ROOT / "spark_jobs" / "batch.py").read_text())
    duties = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "DUTIES"  # type: ignore[attr-defined]
    )
    duties_named = set(re.findall(r"`(\w+)`", (ast.get_docstring(tree) or "").split("DUTY is")[1].split(";")[0]))
    assert isinstance(duties, ast.Dict)
    assert duties_named == {key.value for key in duties.keys if isinstance(key, ast.Constant)}


def test_a_sentence_about_a_kind_of_kubernetes_object_is_true() -> None:
    """A docstring once said that a CronJob cleans Airflow's database in the cluster; no chart had one."""
    kinds = {"CronJob", "DaemonSet"}
    there = {
        kind
        for path in ROOT.glob("helm/*/templates/*.yaml")
        for kind in re.findall(r"^kind: (\w+)", path.read_text(), re.MULTILINE)
    }
    said = {
        (str(path.relative_to(ROOT)), kind)
        for path in [*ROOT.glob("src/**/*.py"), *PAGES]
        for kind in kinds - there
        if re.search(rf"\ba {kind}\b", path.read_text())
    }
    assert said == set()


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/howto/*.md")), ids=lambda page: page.name)
def test_a_howto_says_at_its_top_which_tests_run_it_or_what_it_describes(page: Path) -> None:
    if page.name != "README.md":
        title, empty, statement = page.read_text().split("\n")[:3]
        assert title.startswith("# ")
        assert not empty
        assert statement.startswith("*Tested: ")
        assert re.search(r"`(tests/|make e2e)", page.read_text().split("\n\n")[1])


def test_the_index_of_decisions_lists_each_page_with_its_title() -> None:
    pages = sorted(ROOT.glob("docs/adr/0*.md"))
    titles = {page.name: page.read_text().partition("\n")[0].removeprefix("# ") for page in pages}
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert {name: title for title, name in re.findall(r"\[(\d+\. .+?)\]\((0[\w-]+\.md)\)", index)} == titles


def test_each_claim_of_the_readme_names_the_tests_that_show_it() -> None:
    table = (ROOT / "README.md").read_text().split("\n| claim | ")[1].split("\n\n")[0]
    claims = [line for line in table.splitlines() if line.startswith("| **")]
    assert claims
    assert all(A_PATH.search(line) for line in claims)


def test_the_glossary_has_at_most_25_terms() -> None:
    glossary = (ROOT / "docs" / "architecture.md").read_text().split("\n## Glossary\n")[1].split("\n## ")[0]
    _, _, *terms = (line for line in glossary.splitlines() if line.startswith("|"))
    assert 10 < len(terms) <= 25


IMPORT = re.compile(r"^\s*from (headrace[\w.]*) import ([\w, ]+)", re.MULTILINE)


def test_imports_that_pages_and_embedded_scripts_show_exist() -> None:
    """Code in a text is seen by no linter: pages, and the scripts that tests run inside pods and other processes."""
    lost = set()
    for path in [*PAGES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("docs/**/*.md")]:
        for module, imported in IMPORT.findall(path.read_text()):
            source = ROOT / "src" / module.replace(".", "/")
            for name in (part.split(" as ")[0].strip() for part in imported.split(",")):
                package = source.is_dir() and ((source / name).is_dir() or (source / f"{name}.py").exists())
                text = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
                if name and not package and not (text.exists() and re.search(rf"\b{name}\b", text.read_text())):
                    lost.add(f"{path.relative_to(ROOT)}: {module}.{name}")
    assert lost == set()
