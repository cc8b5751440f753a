"""Packages of a project that are called like ours: workers of Spark and Ray import ours all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import features

pytestmark = pytest.mark.integration

OURS = str(Path(features.__file__).parent)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder, with a package ``features`` that cannot be imported."""
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").write_text("raise ImportError('of the user')", encoding="utf-8")
    seen = [str(Path(OURS).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, seen)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sparks_workers_import_our_package(project):
    from streaming.spark import spark_session

    def imported(batches):
        import pyarrow as pa

        import features as found

        for _ in batches:
            yield pa.RecordBatch.from_arrays([pa.array([found.__file__])], ["file"])

    spark = spark_session("local[1]", "512m", [], project / "logs")
    try:
        rows = spark.range(1).mapInArrow(imported, "file string").collect()
    finally:
        spark.stop()
    assert [str(Path(row["file"]).parent) for row in rows] == [OURS]


def test_rays_workers_import_our_package(project):
    import ray

    from serving.server.ray_server import local_ray

    @ray.remote
    def imported():
        import features as found

        return found.__file__

    with local_ray(num_cpus=1):
        assert str(Path(ray.get(imported.remote())).parent) == OURS
