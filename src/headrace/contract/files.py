"""Lists the pipeline files of a folder. The only place that does; free of heavy imports, so DAG files may use it."""

from __future__ import annotations

from pathlib import Path

# Hidden files, Emacs locks (.#x, a dangling link) and macOS companions (._x); copies by Emacs and Office.
_NOT_OURS = (".", "#", "~")


def pipeline_files(folder: Path) -> list[Path]:
    """Return the pipeline files of a folder, sorted by name: `*.yaml`, and `*.yml`, which the loader refuses with a message.

    Files left by editors and file managers are skipped: names that begin with a dot, `#` or `~`, and names with other
    endings (`x.yaml~`, `x.yaml.bak`, `#x.yaml#`, `x.yaml.swp`). A missing folder has no files.
    """
    paths = (path for path in folder.glob("*.y*ml") if path.suffix in (".yaml", ".yml"))
    return sorted(path for path in paths if not path.name.startswith(_NOT_OURS))


def pipeline_names(folder: Path) -> list[str]:
    """Return the pipeline names of the folder's files, sorted. The files are not read, so they may be broken."""
    return [path.stem for path in pipeline_files(folder) if path.suffix == ".yaml"]
