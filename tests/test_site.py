"""The documentation site builds without a warning, holds every page, and loads nothing from the internet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a tree as `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md")]
    built = [page.with_name("index.html") if page.name == "README.md" else page.with_suffix(".html") for page in pages]
    assert [str(page) for page in built if not (site / page).is_file()] == []


def test_the_readme_is_the_home_page_and_its_links_stay_on_the_site(site: Path) -> None:
    home = (site / "index.html").read_text()
    assert "<h1" in home
    for page in ("howto/deploy.html", "runbooks/index.html", "reference/cli.html", "contributing.html"):
        assert f'href="{page}"' in home
    assert ".md" not in " ".join(re.findall(r'href="([^"]+)"', home))


def test_no_page_loads_anything_from_the_internet(site: Path) -> None:
    pages = sorted(site.glob("**/*.html"))
    outside = {link for page in pages for link in LOADED.findall(page.read_text())}
    assert len(pages) > 50
    assert outside == set()


@pytest.mark.parametrize("link", ["howto/nothing.md", "howto/deploy.md#no-such-heading", "../src/nothing.py"])
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    for name in ("docs", "helm", "pipelines", "bench", "infra"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".terraform"))
    for path in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "mkdocs_hooks.py"]:
        shutil.copy(path, tmp_path)
    with (tmp_path / "docs" / "architecture.md").open("a") as page:
        page.write(f"\n\n[broken]({link})\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "architecture.md" in done.stderr
