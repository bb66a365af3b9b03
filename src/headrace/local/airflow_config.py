"""Airflow's configuration on this machine: one generated airflow.cfg, readable only by its owner."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from headrace.access.bindings import write_private
from headrace.errors import HeadraceError
from headrace.local.java import Java, child_environment
from headrace.local.passwords import secret
from headrace.local.settings import Settings
from headrace.operations import deployment
from headrace.orchestration import notify
from headrace.store.spark_conf import local_environment

USER = "admin"
BATCH_CONNECTION = (
    "spark_batch"  # connection of finite Spark jobs (SparkSubmitOperator); without it Airflow uses `yarn`
)


def home(settings: Settings) -> Path:
    """Return AIRFLOW_HOME: configuration, database, task logs."""
    return settings.home / "airflow"


def password(settings: Settings) -> str:
    """Return the admin's password, created on first use."""
    return secret(f"airflow-{USER}", settings)


def password_file(settings: Settings) -> Path:
    """Return the file (0600) with the admin's password."""
    return settings.home / "secrets" / f"airflow-{USER}"


def url(settings: Settings) -> str:
    """Return the URL of Airflow on this machine, for the web page and the REST API, without a trailing slash."""
    return (settings.airflow_base_url or f"http://{settings.host}:{settings.airflow_port}").rstrip("/")


def database_url(settings: Settings) -> str:
    """Return the SQLAlchemy URL of the metadata database. Raises HeadraceError if its file cannot be read."""
    if settings.airflow_database is None:
        # Airflow itself sets WAL. Five processes share the file: a writer waits up to `timeout` seconds for another. The
        # API server can deadlock with itself (a commit in its event loop waits for a thread that needs the loop): observed
        # once, and then everything blocks for that long.
        return f"sqlite:///{home(settings) / 'airflow.db'}?timeout=20"
    try:
        address = settings.airflow_database.read_text().strip()
    except OSError as error:
        raise HeadraceError(
            f"HEADRACE_AIRFLOW_DATABASE names {settings.airflow_database}, which cannot be read ({error.strerror}). "
            "Write the SQLAlchemy URL of a PostgreSQL database into it, or unset it."
        ) from error
    if not address.startswith("postgresql"):
        raise HeadraceError(
            f"{settings.airflow_database} does not contain a PostgreSQL URL. Write postgresql://user:password@host/database."
        )
    return address


def database_id(settings: Settings) -> str:
    """Return an identifier of the database that reveals nothing about its password."""
    return hashlib.sha256(database_url(settings).encode()).hexdigest()[:16]


def environment(settings: Settings, java: Java) -> dict[str, str]:
    """Return the environment of Airflow's components and of their tasks. It contains no secret."""
    base = child_environment(java) | local_environment()
    return base | {
        "AIRFLOW_HOME": str(home(settings)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{base['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "SPT_NOENV": "1",  # setproctitle keeps the environment readable, which identifies leftover processes as ours
        deployment.VARIABLE: str(deployment_file(settings)),
        notify.CONNECTION: settings.airflow_notify_connection,
        notify.RECIPIENTS: settings.airflow_notify_to,
    }


def deployment_file(settings: Settings) -> Path:
    """Return the file that passes the command line's settings to Airflow's tasks."""
    return settings.home / "deployment.json"


def write(settings: Settings) -> None:
    """Write airflow.cfg, the admin's password for the simple auth manager, and the connections; all 0600."""
    folder = home(settings)
    write_private(folder / "airflow.cfg", _text(_sections(settings)))
    write_private(folder / "passwords.json", json.dumps({USER: password(settings)}) + "\n")
    write_private(folder / "connections.json", json.dumps(connections(), indent=1) + "\n")


def connections() -> dict[str, dict[str, object]]:
    """Return the connections used by the DAGs, for Airflow's local secrets backend; none contains a secret."""
    spark = {"deploy-mode": "client", "spark-binary": "spark-submit"}
    return {BATCH_CONNECTION: {"conn_type": "spark", "host": "local[2]", "extra": spark}}


def welcome(settings: Settings, *, with_password: bool) -> str:
    """Return the login instructions; the password is shown once, later only the file that contains it."""
    kept = f"kept in {password_file(settings)}"
    how = f"password {password(settings)} (shown only once, {kept})" if with_password else f"password {kept}"
    return f"Airflow: {url(settings)} as {USER}, {how}"


def _sections(settings: Settings) -> dict[str, dict[str, object]]:
    """Return the settings that differ from Airflow's defaults. Times in seconds; the intervals suit two shared cores."""
    folder = home(settings)
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    return {
        "core": {
            "executor": "LocalExecutor",
            "parallelism": settings.airflow_parallelism,
            "dags_folder": settings.airflow_dags,
            "plugins_folder": settings.airflow_plugins,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": folder / "passwords.json",
            "execution_api_server_url": f"http://{settings.host}:{settings.airflow_port}/execution/",
            "fernet_key": secret("airflow-fernet", settings) + "=",  # 32 bytes in padded base64
            "dagbag_import_timeout": 120,
        },
        "database": {"sql_alchemy_conn": database_url(settings)},
        "api": {
            "host": settings.host,
            "port": settings.airflow_port,
            "base_url": url(settings),
            "workers": 1,
            "secret_key": secret("airflow-api", settings),
            "expose_config": False,
        },
        "api_auth": {"jwt_secret": secret("airflow-jwt", settings, size=64)},  # RFC 7518, 3.2: as long as SHA-512
        "secrets": {
            "backend": backend,
            "backend_kwargs": json.dumps({"connections_file_path": str(folder / "connections.json")}),
        },
        "workers": {"execution_api_timeout": 30},
        "logging": {
            "base_log_folder": folder / "logs",
            "colored_console_log": False,
            "dag_processor_child_process_log_directory": folder / "logs" / "dag_processor",
        },
        # Tasks of a killed scheduler, including the supervisor's, count as running until another scheduler adopts them. It
        # considers a job dead after this threshold, and checks only every 5 minutes by default.
        "scheduler": {
            "scheduler_health_check_threshold": 30,
            "task_instance_heartbeat_timeout": 120,
            "orphaned_tasks_check_interval": 20,
        },
        "dag_processor": {
            # A changed file is parsed at once; unchanged files need not be parsed every half minute.
            "refresh_interval": 10,
            "min_file_process_interval": 120,
            "stale_dag_threshold": 300,
            "parsing_processes": 1,
            "dag_file_processor_timeout": 180,
            "print_stats_interval": 600,
            "health_check_threshold": 60,
        },
        "triggerer": {"capacity": 100, "triggerer_health_check_threshold": 60},
        "usage_data_collection": {"enabled": False},
    }


def _text(sections: dict[str, dict[str, object]]) -> str:
    lines = ["# Generated by `headrace up`. Change settings with HEADRACE_AIRFLOW_..., not here.\n"]
    for name, values in sections.items():
        lines.append(f"[{name}]\n")
        lines += [f"{key} = {str(value).replace('%', '%%')}\n" for key, value in values.items()]
    return "".join(lines)
