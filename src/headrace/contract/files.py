"""Which files of a folder are pipeline files. The one place that lists them; light, so that DAG files may import it."""

from __future__ import annotations

from pathlib import Path

# Hidden files, Emacs' locks (.#x, a link that leads nowhere) and macOS' companions (._x); Emacs' and Office's copies.
_NOT_OURS = (".", "#", "~")


def pipeline_files(folder: Path) -> list[Path]:
    """Return the pipeline files of a folder, sorted by name: `*.yaml`, and `*.yml`, which the loader refuses in words.

    What editors and file managers leave beside them is no pipeline file, whatever it holds: names that begin with a
    dot, `#` or `~`, and names that end otherwise (`x.yaml~`, `x.yaml.bak`, `#x.yaml#`, `x.yaml.swp`). A folder that is
    absent has no files.
    """
    found = (path for path in folder.glob("*.y*ml") if path.suffix in (".yaml", ".yml"))
    return sorted(path for path in found if not path.name.startswith(_NOT_OURS))


def pipeline_names(folder: Path) -> list[str]:
    """Return the names that the folder's files stand for, sorted. Nothing is read: a file may be broken."""
    return [path.stem for path in pipeline_files(folder) if path.suffix == ".yaml"]
