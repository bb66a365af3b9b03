"""The environment of a driver and of a batch run: what a launcher passes to `spark_jobs/`, as one type.

The names of the variables are here and nowhere else. Nothing in them is secret: the bindings are files, and
SERVICE_BINDING_ROOT (`bindings`) says where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import HeadraceError

STORAGE_ROOT = "HEADRACE_STORAGE_ROOT"
PIPELINES = "HEADRACE_PIPELINES"
NEW_GENERATIONS = "HEADRACE_NEW_GENERATIONS"
REQUEST = "HEADRACE_REQUEST"
INSTANCE = "HEADRACE_LIFE"
RELEASE = "HEADRACE_RELEASE"
GRACE_SECONDS = "HEADRACE_GRACE_SECONDS"
METRICS_HOST = "HEADRACE_METRICS_HOST"
METRICS_PORT = "HEADRACE_METRICS_PORT"
SPARK_CONF = "HEADRACE_SPARK_CONF"
SPARK_UI_PORT = "HEADRACE_SPARK_UI_PORT"
CHECK_ONLY = "HEADRACE_CHECK_ONLY"


@dataclass(frozen=True)
class DriverEnvironment:
    """What a driver or a batch run is started with.

    `storage_root`: a folder or URI. `pipelines`: the folder of the pipeline files, "" for the one beside `spark_jobs/`.
    `new_generations`: the queries that begin a new generation. `request` names the start that asks for them, `instance`
    this run of the driver; the heartbeat repeats both. `release` is what was asked to run. `grace_seconds`: what a running
    batch may take after SIGTERM. `check_only`: plan, compare with the checkpoints, write check.json, start nothing.
    """

    storage_root: str = ""
    pipelines: str = ""
    new_generations: tuple[str, ...] = ()
    request: str = ""
    instance: str = ""
    release: str = ""
    grace_seconds: float = 30
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    spark_ui_port: int = 4040
    check_only: bool = False

    def to_env(self) -> dict[str, str]:
        """Return the variables. All are set, so that none is inherited; without `pipelines` that one is left out."""
        variables = {
            STORAGE_ROOT: self.storage_root,
            NEW_GENERATIONS: " ".join(self.new_generations),
            REQUEST: self.request,
            INSTANCE: self.instance,
            RELEASE: self.release,
            GRACE_SECONDS: f"{self.grace_seconds:g}",
            METRICS_HOST: self.metrics_host,
            METRICS_PORT: str(self.metrics_port),
            SPARK_CONF: json.dumps(dict(self.spark_conf)),
            SPARK_UI_PORT: str(self.spark_ui_port),
            CHECK_ONLY: "1" if self.check_only else "",
        }
        return variables | ({PIPELINES: self.pipelines} if self.pipelines else {})

    @classmethod
    def from_env(cls, variables: Mapping[str, str]) -> DriverEnvironment:
        """Return what variables say; one that is not set has the default of its field.

        Raises HeadraceError that names a variable with a value of the wrong kind.
        """
        default = cls()
        return cls(
            storage_root=variables.get(STORAGE_ROOT, ""),
            pipelines=variables.get(PIPELINES, ""),
            new_generations=tuple(variables.get(NEW_GENERATIONS, "").split()),
            request=variables.get(REQUEST, ""),
            instance=variables.get(INSTANCE, ""),
            release=variables.get(RELEASE, ""),
            grace_seconds=_number(variables, GRACE_SECONDS, default.grace_seconds),
            metrics_host=variables.get(METRICS_HOST) or default.metrics_host,
            metrics_port=int(_number(variables, METRICS_PORT, default.metrics_port)),
            spark_conf=_conf(variables),
            spark_ui_port=int(_number(variables, SPARK_UI_PORT, default.spark_ui_port)),
            check_only=bool(variables.get(CHECK_ONLY)),
        )

    def pipelines_folder(self, jobs: Path) -> Path:
        """Return the folder of the pipeline files; `jobs` is the folder of the entry point."""
        return Path(self.pipelines) if self.pipelines else jobs.parent / "pipelines"


def _number(variables: Mapping[str, str], name: str, default: float) -> float:
    text = variables.get(name, "")
    try:
        return float(text) if text else default
    except ValueError as error:
        raise HeadraceError(
            f"{name} is {text!r}, not a number: correct it in the environment of the driver."
        ) from error


def _conf(variables: Mapping[str, str]) -> dict[str, str]:
    text = variables.get(SPARK_CONF, "") or "{}"
    try:
        return {str(name): str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise HeadraceError(
            f"{SPARK_CONF} is not a JSON object: correct it in the environment of the driver."
        ) from error
