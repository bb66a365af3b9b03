"""The deployment file: it gives Airflow's tasks what the command line knows from its settings.

`headrace up` writes it locally, the Airflow chart mounts it, and HEADRACE_DEPLOYMENT names it. It contains no secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.access.bindings import write_private
from headrace.contract.files import pipeline_names
from headrace.contract.load import Folder, read_folder
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.drivers.interface import Launcher
from headrace.operations.drivers.kubernetes import KubernetesLauncher
from headrace.operations.drivers.local import LocalLauncher

VARIABLE = "HEADRACE_DEPLOYMENT"


class DeploymentPart(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalDrivers(DeploymentPart):
    """The fields of a LocalLauncher that are not in the deployment itself."""

    kind: Literal["local"] = "local"
    run_dir: Path
    log_dir: Path
    tmp_dir: Path
    driver_bindings: Path = Field(description="folder with one binding root a pipeline")
    environment: dict[str, str]
    conf: dict[str, str] = {}
    grace_seconds: float = 30
    ui_port: int = 4040

    @classmethod
    def of(cls, launcher: LocalLauncher) -> LocalDrivers:
        """Return the fields of a launcher without those of the deployment itself (project, root)."""
        fields = {name: value for name, value in vars(launcher).items() if name in cls.model_fields}
        return cls(driver_bindings=launcher.bindings, **fields)

    def launcher(self, project: Path, root: str) -> Launcher:
        """Return the launcher of drivers on this machine; the supervisor restarts them."""
        fields = self.model_dump(exclude={"kind", "driver_bindings"})
        return LocalLauncher(project=project, root=root, bindings=self.driver_bindings, **fields)


class BatchSize(DeploymentPart):
    """The size of a batch run: its Java heap, and the tasks that run at the same time."""

    memory: str = Field("1536m", pattern=r"^[1-9]\d*[mg]$")
    cores: int = Field(2, ge=1)


class BatchPods(BatchSize):
    """The pods of batch runs: where they run, what they are made of, and their size by pipeline."""

    namespace: str
    template: Path = Field(description="manifest of a pod, which each run completes")
    pipelines: dict[str, BatchSize] = Field({}, description="the size by pipeline; it wins")

    def of(self, pipeline: str) -> BatchSize:
        """Return the size of a pipeline's runs."""
        return self.pipelines.get(pipeline, self)

    def pod_mebibytes(self, pipeline: str) -> int:
        """Return the memory of a pod in MiB: the heap, and 40 % or at least 1 GiB for the rest of the JVM and for Python."""
        memory = self.of(pipeline).memory
        heap = int(memory[:-1]) * {"m": 1, "g": 1024}[memory[-1]]
        return heap + max(1024, heap * 2 // 5)


class KubernetesDrivers(DeploymentPart):
    """The fields of a KubernetesLauncher that are not in the deployment itself."""

    kind: Literal["kubernetes"]
    namespace: str
    image: str = Field(description="what runs where no release is asked for; never a moving tag")
    driver_template: Path = Field(description="pod template file of drivers")
    executor_template: Path = Field(description="pod template file of executors")
    kubeconfig: Path | None = Field(None, description="without it the pod's own service account is used")
    conf: dict[str, str] = Field({}, description="Spark settings of every driver")
    pipeline_conf: dict[str, dict[str, str]] = Field({}, description="the same by pipeline; they win")
    grace_seconds: float = 30
    spark_submit: str = "spark-submit"
    batch: BatchPods | None = Field(None, description="without it no batch run can start")

    def launcher(self, project: Path, root: str) -> Launcher:
        """Return the launcher of drivers as pods."""
        sized = {
            "driver.pipelineConf": list(self.pipeline_conf),
            "batch.pipelines": list(self.batch.pipelines) if self.batch else [],
        }
        for value, by_pipeline in sized.items():
            if unknown := sorted(set(by_pipeline) - set(pipeline_names(project / "pipelines"))):
                raise HeadraceError(
                    f"Unknown pipeline {unknown[0]!r} in the driver settings: correct {value} of chart airflow."
                )
        return KubernetesLauncher(project=project, root=root, **self.model_dump(exclude={"kind", "batch"}))


class Deployment(DeploymentPart):
    """One deployment: the project's files, the storage root, the admin's bindings, and the launcher of drivers."""

    project: Path = Field(description="folder with pipelines/ and spark_jobs/")
    root: str = Field(description="storage root: a folder, or s3a://bucket/prefix")
    bindings: Path = Field(description="binding root of the admin")
    drivers: Annotated[LocalDrivers | KubernetesDrivers, Field(discriminator="kind")]

    def launcher(self) -> Launcher:
        """Return the launcher, which starts and stops this deployment's drivers."""
        return self.drivers.launcher(self.project, self.root)

    def folder(self, release: str = "") -> Folder:
        """Return the content of the pipeline files, of the project or of a release that is a folder.

        A release that is an image contains its own files; then the project's files are returned instead.
        """
        folder = Path(release) if release and self.drivers.kind == "local" else self.project
        return read_folder(folder / "pipelines")

    def pipelines(self) -> Mapping[str, Pipeline]:
        """Return the project's pipelines by name. A file that does not load is left out and hides no other pipeline."""
        return self.folder().pipelines

    def pipeline(self, name: str, release: str = "") -> Pipeline:
        """Return one pipeline, of the project or of a release. Raises HeadraceError only for faults of that pipeline's file."""
        return self.folder(release).pipeline(name)

    def write(self, path: Path) -> None:
        """Write the deployment file, which `load` reads."""
        write_private(path, self.model_dump_json(indent=1) + "\n")


def load(path: Path | None = None) -> Deployment:
    """Return the deployment in a file (default: the file that HEADRACE_DEPLOYMENT names). Raises HeadraceError."""
    file = path or Path(os.environ.get(VARIABLE, ""))
    if file == Path():
        raise HeadraceError(f"{VARIABLE} is not set: it names the deployment's file, which `headrace up` writes.")
    try:
        return Deployment.model_validate(json.loads(file.read_text()))
    except FileNotFoundError as error:
        raise HeadraceError(f"{file} is missing: `headrace up` writes it, or the Airflow chart mounts it.") from error
    except (ValueError, ValidationError) as error:
        raise HeadraceError(f"{file} is no deployment file ({error}): write it again with `headrace up`.") from error
