"""A registry that is an MLflow server: what following its aliases leaves on the disk of the process that follows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from mlflow_marks import MLFLOW_TEST
from small_shop import model

from models.folder import MANIFEST
from models.followed import FollowedAlias, VersionLoader
from models.local_copy import LocalCopy
from models.needs import model_needs
from models.recommender.golden import open_recommender
from models.registry import MlflowRegistry, RegistryError
from models.tags import CHAMPION
from training.registry import ModelRegistry

pytestmark = MLFLOW_TEST
NAME = "shop"
SWAPS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that keeps the artefacts, so that every file of a version is a download."""
    root = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artefacts")]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *listen],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_for(address, process, root / "log")
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{address}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def registry(server, tmp_path_factory) -> ModelRegistry:
    """Two versions that passed the gate."""
    registry = ModelRegistry(server, tmp_path_factory.mktemp("project"))
    for number in (1, 2):
        made = model()
        manifest = made.manifest.model_copy(update={"created_ms": number})
        registry.judge(registry.register(replace(made, manifest=manifest), {}, {}, {}), True, "better")
    return registry


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """The folder of temporary files of this process."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_swaps_leave_no_files_behind_however_many(server, registry, scratch, tmp_path):
    loader = VersionLoader(MlflowRegistry(server, NAME), open_recommender)
    followed = FollowedAlias(loader, CHAMPION, local_copy=LocalCopy(tmp_path / "kept"))
    served = []
    for swap in range(SWAPS):
        registry.client.set_registered_model_alias(NAME, CHAMPION, str(1 + swap % 2))
        followed.follow()
        assert followed.problem is None
        served.append(followed.current.version)
        assert list(scratch.iterdir()) == []
    assert served == ["1", "2"] * (SWAPS // 2)
    assert len(list((tmp_path / "kept").glob(f"*/{MANIFEST}"))) == 1
    assert {need.model for need in model_needs(server, tmp_path)} == {NAME}
    assert list(scratch.iterdir()) == []


def test_a_download_that_fails_leaves_no_files_behind(server, registry, scratch):
    reader = MlflowRegistry(server, NAME)
    pinned = reader.find("1")
    missing = replace(pinned, source=f"{pinned.source}/nothing/manifest.json")
    with pytest.raises(RegistryError), reader.fetch(missing) as folder:
        folder.read_bytes()
    with reader.fetch(pinned) as folder:
        assert (folder / MANIFEST).is_file()
    assert list(scratch.iterdir()) == []
