"""Settings of the local platform: every path, port, heap and threshold has a default and can be changed.

`HEADRACE_<NAME>` in the environment overrides `headrace.toml` in the project folder, which overrides the default.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from headrace.errors import HeadraceError

FILE_NAME = "headrace.toml"
PREFIX = "HEADRACE_"

Port = Annotated[int, Field(ge=1, le=65535)]
Heap = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[mg]$")]


def _absolute(path: Path) -> Path:
    if ":" in str(path):
        raise ValueError("a Java class path cannot contain a folder with a colon in its name")
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - made absolute without resolving links


Folder = Annotated[Path, AfterValidator(_absolute)]


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace"


class Settings(BaseSettings):
    """The settings of the local platform. Units are in the names or in the descriptions."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True, env_ignore_empty=True
    )

    home: Folder = Field(Path(".headrace"), description="folder with all state of this platform")
    cache: Folder = Field(default_factory=_default_cache, description="folder of downloaded jars, shared by projects")
    host: str = Field("127.0.0.1", description="address that every server listens on")
    kafka_port: Port = 19092
    kafka_controller_port: Port = 19093
    cassandra_port: Port = 19042
    cassandra_storage_port: Port = 17000
    cassandra_jmx_port: Port = 17199
    airflow: bool = Field(True, description="whether `up` also starts Airflow; set `false` on a small machine")
    airflow_port: Port = 18080
    airflow_base_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]+(/.*)?$",
        description="URL of Airflow for browsers, if a proxy with a path prefix is in front of it",
    )
    airflow_database: Folder | None = Field(
        None, description="file with the SQLAlchemy URL of a PostgreSQL database; default: SQLite in home"
    )
    airflow_parallelism: int = Field(8, ge=1, description="concurrent tasks; an idle worker is a process of 20 MB")
    airflow_batch_slots: int = Field(
        2, ge=1, description="concurrent finite Spark runs and quality passes (the pool `batch`)"
    )
    airflow_notify_connection: str = Field(
        "",
        description="Airflow connection (Admin, Connections; type smtp or http) that reports failed tasks and new verdicts",
    )
    airflow_notify_to: str = Field("", description="recipients of these mails, separated by commas")
    airflow_dags: Folder = Field(Path("dags"), description="folder of the DAG files")
    airflow_plugins: Folder = Field(Path("plugins"), description="folder of the Airflow plugins")
    spark_ui_port_base: Port = Field(14040, description="first port to try for the web page of a Spark driver")
    kafka_heap: Heap = "384m"
    cassandra_heap: Heap = "512m"
    driver_heap: Heap | None = Field(None, description="heap of each Spark driver; default: from its pipeline")
    driver_java_options: str = Field(
        "-XX:TieredStopAtLevel=1",
        description="additional JVM options of each Spark driver; `-XX:+TieredCompilation` for sustained heavy load",
    )
    java_home: Folder | None = Field(None, description="a Java 17; default: JAVA_HOME, PATH, the pinned wheel")
    ivy_settings: Folder | None = Field(None, description="ivysettings.xml with a mirror, where Maven is not installed")
    min_free_memory_mb: int = Field(2048, ge=0, description="MiB of memory required to start Kafka and Cassandra")
    min_free_disk_mb: int = Field(2048, ge=0, description="MiB of free disk required for home and cache")
    start_timeout_s: float = Field(180, gt=0, description="seconds that a server may take until it answers")
    stop_timeout_s: float = Field(30, gt=0, description="seconds between SIGTERM and SIGKILL")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then `headrace.toml` in the current folder."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(FILE_NAME))

    @classmethod
    def load(cls, **values: Any) -> Settings:  # noqa: ANN401 - the values are checked by pydantic
        """Return the settings of the project in the current folder; `values` override all other sources.

        Raises HeadraceError with the key, the problem and where to set it.
        """
        try:
            return cls(**values)
        except tomllib.TOMLDecodeError as error:
            raise HeadraceError(f"{FILE_NAME} is not TOML: {error}.") from error
        except ValidationError as error:
            raise HeadraceError(_sentence(error)) from error

    @property
    def run_dir(self) -> Path:
        """Return the folder of process records and locks."""
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        """Return the folder of log files."""
        return self.home / "logs"

    @property
    def tmp_dir(self) -> Path:
        """Return the folder that the servers use as java.io.tmpdir."""
        return self.home / "tmp"

    def bindings(self, principal: str = "admin") -> Path:
        """Return the binding root of a principal: `admin`, or the name of a pipeline."""
        return self.home / "bindings" / principal


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"Unknown setting {key!r} in {FILE_NAME}. Known settings: {', '.join(sorted(Settings.model_fields))}."
    return (
        f"The setting {key} = {first['input']!r} is refused: {first['msg']}. "
        f"Set it in {FILE_NAME} or as {PREFIX}{key.upper()}."
    )
