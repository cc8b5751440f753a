"""`headrace` is the one name that users import, and the import paths of version 0.1 go on working."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import headrace
from features.definitions import load_repo
from features.online_store import store_of
from features.renamed import RENAMED

HEAVY = ["pyspark", "ray", "feast", "confluent_kafka", "mlflow", "sklearn", "pandas", "polars", "numpy", "pyarrow"]

OLD_REPO = """
from features.aggregates import Count, Sum
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.expressions import at_least
from features.windows import Window

user = Entity("user", keys={"user_id": "string"})
orders = Stream("orders", topic="orders", fields={"user_id": "string", "price": "float64"})
large = FeatureSet(user, orders, [Count(), Sum("price")], [Window("1h")], where={"price": at_least(10)}, name="large")
user_orders = FeatureView("user_orders", sets=[large])
"""


def test_importing_headrace_loads_nothing_heavy():
    program = f"import json, sys, headrace; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_public_name_is_there_and_a_wrong_one_is_named():
    assert [name for name in headrace.__all__ if getattr(headrace, name) is None] == []
    assert set(dir(headrace)) == set(headrace.__all__)
    with pytest.raises(AttributeError, match="'headrace' has no attribute 'Cuont'"):
        headrace.Cuont  # noqa: B018


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_an_import_path_of_before_gives_the_names_of_its_module_of_today(old):
    today = importlib.import_module(RENAMED[old])
    names = [name for name in vars(today) if not name.startswith("_")]
    before = importlib.import_module(old)
    assert [name for name in names if getattr(before, name) is not getattr(today, name)] == []


def test_a_feature_repo_of_before_means_the_same(tmp_path):
    (tmp_path / "orders.py").write_text(OLD_REPO)
    (view,) = load_repo(tmp_path).views.values()
    assert view.names == ("user_large_count_1h", "user_large_price_sum_1h")


@pytest.mark.parametrize("module", ["headrace.feast", "features.online_store.plugin"])
def test_a_feature_store_of_before_names_the_same_store_to_us_and_to_feast(tmp_path, module):
    from feast.repo_config import load_repo_config

    (tmp_path / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        f"online_store:\n  type: {module}.SqliteRowsOnlineStore\n  path: online.db\n"
        f"offline_store:\n  type: {'headrace.feast' if module == 'headrace.feast' else 'features.offline_store'}"
        ".ArchiveOfflineStore\n"
    )
    config = load_repo_config(tmp_path, tmp_path / "feature_store.yaml")
    assert type(config.online_store).__name__ == "SqliteRowsOnlineStoreConfig"
    assert type(config.offline_store).__name__ == "ArchiveOfflineStoreConfig"
    assert store_of(tmp_path, tmp_path).kind == "sqlite"
