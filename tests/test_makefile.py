"""What the Makefile, CI and the documents promise: targets, links, paths, settings and examples are there as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic_core import PydanticUndefined

from headrace.contract.load import load_pipeline
from headrace.local.settings import Settings
from tests.support import howto

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z0-9-]+):.*## (.+)$", MAKEFILE, re.MULTILINE))
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("bench/*.md"),
        *ROOT.glob("pipelines/*.md"),
        *ROOT.glob("helm/*/README.md"),
        *ROOT.glob("infra/**/README.md"),
    ]
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:src|tests|docs|bench|pipelines|spark_jobs|helm|infra|images|dags|plugins)/[\w./-]+)`")
# Wherever a test or a page is named: a rename must not leave a name behind.
TEST = re.compile(r"(?<![\w/.-])([\w./-]*\btest_\w+\.py)\b")
PAGE = re.compile(r"(?<![\w/.-])(docs/[\w./-]+\.md)\b")
MADE_UP = (
    "pipelines/X.yaml",
    "spark_jobs/X.py",
    "pipelines/fridges.yaml",
    "spark_jobs/fridges.py",
    "bench/out",
    "images/sbom",
)


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_make_alone_prints_every_target_with_a_sentence() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, env=plain).stdout
    assert [line.split()[1] for line in said.splitlines()] == list(TARGETS)
    assert next(iter(TARGETS)) == "help"


def test_every_target_is_phony_and_described() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == set(TARGETS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_every_make_command_in_a_document_is_a_target(path: Path) -> None:
    said = set(re.findall(r"(?:`|^ {4})make ([a-z0-9-]+)", path.read_text(), re.MULTILINE))
    assert said <= set(TARGETS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_every_link_and_every_path_in_a_document_leads_somewhere(path: Path) -> None:
    text = path.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    paths = [name for name in PATH.findall(text) if "<" not in name and not name.startswith(MADE_UP)]
    assert [name for name in paths if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_every_test_that_a_document_names_is_there(path: Path) -> None:
    """By its path, or by its file's name alone where the text has told the folder."""
    alone = {file.name for file in ROOT.glob("tests/**/test_*.py")}
    named = TEST.findall(path.read_text())
    assert [name for name in named if name not in alone and not (ROOT / name).is_file()] == []


def test_every_page_that_a_file_names_is_there() -> None:
    """Charts, Terraform and error messages name pages too."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [
        name
        for name in listed
        if name.endswith((".md", ".py", ".yaml", ".tf", ".tpl", ".txt", ".toml", ".json", ".sh"))
    ]
    named = {
        (name, page) for name in texts if (ROOT / name).is_file() for page in PAGE.findall((ROOT / name).read_text())
    }
    assert sorted((name, page) for name, page in named if not (ROOT / page).is_file()) == []
    assert len({page for _, page in named}) > 10


def test_the_threat_model_names_a_test_or_a_file_for_each_threat() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [
        row
        for part in text.split("## Threats")[1:]
        for row in re.findall(r"^\| (?!threat )[^-|].*\|$", part, re.MULTILINE)
    ]
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"`tests/[\w/.]+`[^|]*\|$", row)] == []


def test_the_first_package_is_installed_from_the_lock_by_its_hash() -> None:
    script = r"sed -n '/^uv==/,/[^\\]$/p' requirements.lock"
    assert script.replace("$", "$$") in MAKEFILE
    entry = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.match(r"uv==[\d.]+ \\\n", entry)
    assert len(re.findall(r"==", entry)) == 1
    assert "--hash=sha256:" in entry
    assert not entry.rstrip().endswith("\\")


def test_ci_calls_only_what_a_user_could_call() -> None:
    called = re.findall(r"^make ([a-z0-9-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert called == ["setup", "lint", "test", "test-long"]
    assert set(called) <= set(TARGETS)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_long_test_is_of_a_group_that_make_runs() -> None:
    marked = {
        group
        for path in ROOT.glob("tests/**/*.py")
        for group in re.findall(r'pytest\.mark\.long\(group="([a-z-]+)"\)', path.read_text())
    }
    names = {name: value for name, value in os.environ.items() if name not in {"TESTCLUSTER", "KUBECONFIG"}}
    run = subprocess.run([ROOT / "tests" / "long"], capture_output=True, text=True, check=True, env=names)
    assert set(run.stdout.split()) == marked


def test_a_long_group_that_does_not_exist_is_refused_with_the_names_that_do() -> None:
    run = subprocess.run([ROOT / "tests" / "long", "nope"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.match(r"Unknown group 'nope'\. Groups that this machine can run: airflow ", run.stderr)


def test_every_file_of_the_cluster_story_is_in_a_group_or_has_a_target_of_its_own() -> None:
    text = (ROOT / "tests" / "long").read_text()
    grouped = {name for names in re.findall(r"\[cluster-\w+\]='(.+)'", text) for name in names.split()}
    of_its_own = {"ha", "later", "again"}  # make e2e-ha, make e2e-store, make e2e-again
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "cluster").glob("test_*.py")}
    assert grouped | of_its_own == files
    story = re.search(r"printf 'tests/cluster/test_%s\.py ' (.+)\)\}", (ROOT / "tests" / "cluster" / "run").read_text())
    assert story is not None
    assert set(story[1].split()) == grouped


def test_the_hooks_call_the_tools_of_the_lock_only() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [(repo["repo"], hook) for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo for repo, _ in hooks} == {"local"}
    assert {hook["language"] for _, hook in hooks} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for _, hook in hooks)


def test_the_settings_table_is_the_settings() -> None:
    text = (ROOT / "docs" / "howto" / "run-locally.md").read_text()
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (?:`(.*?)`)? ?\|", text, re.MULTILINE))
    fields = Settings.model_fields
    assert list(table) == list(fields)
    for name, field in fields.items():
        if field.default is not PydanticUndefined:  # the cache folder depends on the machine
            assert table[name] == ("" if field.default is None else str(field.default)), name


def test_the_reference_of_the_command_line_is_fresh(tmp_path: Path) -> None:
    fresh = tmp_path / "cli.md"
    command = [
        sys.executable,
        "-m",
        "typer",
        "headrace.cli.app",
        "utils",
        "docs",
        "--name",
        "headrace",
        "--output",
        str(fresh),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == fresh.read_text(), "run make schema"


def test_the_pipeline_of_the_howto_loads_and_has_its_transforms(tmp_path: Path) -> None:
    howto.write(tmp_path)
    pipeline = load_pipeline(tmp_path / "pipelines" / "fridges.yaml")
    transforms = (tmp_path / "spark_jobs" / "fridges.py").read_text()
    functions = re.findall(r"^def (\w+)\((\w+): DataFrame\)", transforms, re.MULTILINE)
    assert functions == [(name, *query.sources) for name, query in pipeline.queries.items()]
    compile(transforms, "fridges.py", "exec")
