"""Hooks of the documentation site (mkdocs.yml): pages from outside docs/, generated lists, and links between both."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()\s]+)\)")
REMOTE_IMAGE = re.compile(r"!\[([^\[\]]*)\]\(https?://[^()\s]+\)")
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)
WARN = logging.getLogger("mkdocs.hooks.headrace").warning
CHARTS = sorted(path.parent.name for path in ROOT.glob("helm/*/README.md"))
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "pipelines/README.md": "reference/pipelines.md",
    "bench/README.md": "reference/bench.md",
    "infra/terraform/README.md": "reference/terraform.md",
    **{f"helm/{chart}/README.md": f"reference/charts/{chart}.md" for chart in CHARTS},
}
"""Pages outside docs/: their path in the repository, and their path on the site."""
REPOSITORY_PATH = {page: path for path, page in OUTSIDE.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of folders to their sections of the navigation, after the pages that mkdocs.yml lists there."""
    navigation = config.nav or []
    _add(navigation, "How-tos", _pages_of("howto"))
    _add(navigation, "Runbooks", _pages_of("runbooks"))
    _add(navigation, "Reference", _pages_of("reference"))
    _add(navigation, "Helm charts", [f"reference/charts/{chart}.md" for chart in CHARTS])
    _add(navigation, "Decisions", _pages_of("adr"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text with its links changed to links of the site, outside of code blocks."""
    del config
    uri = page.file.src_uri
    parts = FENCE.split(markdown)
    for number in range(0, len(parts), 2):
        text = REMOTE_IMAGE.sub(r"\1", parts[number])  # the badges of helm-docs
        parts[number] = LINK.sub(lambda match: _site_link(match, uri, files), text)
    return "".join(parts)


def _pages_of(folder: str) -> list[str]:
    """Return the pages of a folder of docs/, its README first."""
    pages = sorted((ROOT / "docs" / folder).glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    return [f"{folder}/{path.name}" for path in pages]


def _add(entries: list[Any], title: str, pages: list[str]) -> None:
    """Append the pages that the section of this title does not list yet. The section may be at any depth."""
    for entry in entries:
        for name, inner in entry.items() if isinstance(entry, dict) else ():
            if name == title:
                listed = {
                    page
                    for item in inner
                    for page in (item.values() if isinstance(item, dict) else [item])
                    if isinstance(page, str)
                }
                inner += [page for page in pages if page not in listed]
            elif isinstance(inner, list):
                _add(inner, title, pages)


def _site_link(match: re.Match[str], uri: str, files: Files) -> str:
    """Return a link between pages of the site, or the text alone if the site does not have the target.

    A target that is not in the repository is a warning, which ends a strict build.
    """
    text, link = match.groups()
    target, mark, anchor = link.partition("#")
    if "://" in link or not target:
        return match[0]
    source = PurePosixPath(REPOSITORY_PATH.get(uri, f"docs/{uri}"))
    path = Path(os.path.normpath(ROOT / source.parent / target))
    if not path.exists():
        WARN(f"{source} links to {target}, which does not exist")
        return text
    path = path / "README.md" if path.is_dir() else path
    name = path.relative_to(ROOT).as_posix()
    page = OUTSIDE.get(name, name.removeprefix("docs/"))
    if files.get_file_from_path(page) is None:
        return text
    return f"[{text}]({os.path.relpath(page, PurePosixPath(uri).parent)}{mark}{anchor})"
