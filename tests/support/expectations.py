"""Great Expectations in tests: imported once, with its own warnings."""

from __future__ import annotations

import warnings


def import_great_expectations() -> None:
    """Import it as a user's process does: on Python 3.11 it imports a deprecated module (sre_constants)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations  # noqa: F401
<<<<<<< HEAD
=======


def copy_suites(project: Path, tree: Path, names: Mapping[str, str], words: Mapping[str, str]) -> None:
    """Copy suites (old name -> new name) into a stage's tree; standalone `words` in them are replaced."""
    (tree / "expectations").mkdir(parents=True, exist_ok=True)
    for old, new in names.items():
        suite = json.loads((project / "expectations" / f"{old}.json").read_text())
        suite = _renamed(suite, words) | {"name": new}
        (tree / "expectations" / f"{new}.json").write_text(json.dumps(suite))


def _renamed(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, words) for inner in value]
    return words.get(value, value) if isinstance(value, str) else value


def suites_of(stage: Stage, project: Path, pipeline: str, suffix: str) -> None:
    """Give a stage with a suffix the suites of the pipeline that it copies, under the stage's names."""
    original = load_pipeline(project / "pipelines" / f"{pipeline}.yaml")
    old, new = [_names(spec) for spec in (original, stage.pipeline)]
    topics = {topic: topic + suffix for topic in original.sources}
    copy_suites(project, stage.launcher.project, dict(zip(old, new, strict=True)), topics)


def _names(pipeline: Pipeline) -> list[str]:
    refreshed = [name for name, dimension in pipeline.dimensions.items() if dimension.refresh]
    return [sink.name for sink in sinks_of(pipeline)] + [stage_name(pipeline.name, name) for name in refreshed]
>>>>>>> hub/words
