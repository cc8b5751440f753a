"""What only a cluster can do: keep a share on each node, and lose on one of them alone."""

from __future__ import annotations

import json
from contextlib import closing

import fallible
import pytest
from click.testing import CliRunner
from redis import Redis
from store_script import aged, begun, emptied, marker
from stories import simulate

from features.definitions.repo import load_repo
from features.definitions.serialized import views_text
from features.errors import FenceError, LeaseError
from features.online_store.batch_step import BatchStep
from features.online_store.port import of_schema
from features.online_store.redis.rows import RedisRows
from features.online_store.redis.scripts import WRITE
from headrace.cli import cli


def test_in_a_cluster_every_node_has_a_share_of_a_views_rows(cluster):
    with closing(RedisRows(emptied(*(server.url for server in cluster)), mode="cluster")) as store:
        begun(store).put_rows("v", aged(*range(3_000)))
        shares = []
        for server in cluster:
            with closing(Redis(port=server.port)) as node:
                shares.append(sum(node.hlen(key) - 1 for key in node.scan_iter("*:rows/v")))
    assert sum(shares) == 3_000
    assert min(shares) > 3_000 / 16 * 4


def test_a_node_that_lost_its_last_writes_stops_the_driver_though_the_others_have_theirs(cluster):
    """Whichever node: the next write to it fails, or else the next batch, and an idle driver finds it too."""
    for loser in range(len(cluster)):
        with closing(fallible.FallibleRedis([server.url for server in cluster])) as stores:
            stores.restore([{} for _ in cluster])
            generation = begun(stores.rows)
            generation.publish(marker(0))
            before = stores.snapshot()
            generation.put_rows("v", aged(*range(100)))
            generation.publish(marker(1))
            after = stores.snapshot()
            stores.restore([(before if number == loser else after)[number] for number in range(len(cluster))])
            with pytest.raises((FenceError, LeaseError)):
                lossy_batch(generation)


def lossy_batch(generation):
    """What a driver does that goes on, and then, told to run the batch again, does."""
    generation.put_rows("v", aged(1))
    generation.publish(marker(2))
    BatchStep(generation, [], generation.stream_id).check_standing(1)


DEFINITIONS = """
from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream

shop = Stream("shop", topic="t", fields={"user_id": "string"})
by_user = FeatureView(
    "by_user", sets=[FeatureSet(Entity("user", keys={"user_id": "string"}), shop, [Count()], ["1h"])]
)
"""
STORE = """
online_store:
  type: headrace.feast.RedisRowsOnlineStore
  url: %s
  mode: cluster
"""


def test_plan_and_verify_find_a_clusters_rows_wherever_they_are(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "shop.py").write_text(DEFINITIONS)
    (tmp_path / "feature_repo" / "feature_store.yaml").write_text(STORE % cluster[0].url)
    view = load_repo(tmp_path / "feature_repo").views["by_user"]
    with closing(RedisRows(emptied(*(server.url for server in cluster)), mode="cluster")) as store:
        generation = begun(store)
        generation.describe(views_text([view]))
        generation.publish(marker(0))
        for name in (view.name, of_schema(view.name, view.schema_hash)):
            store.set_current(name, generation.stream_id)
    plan = CliRunner().invoke(cli, ["features", "plan"])
    assert (plan.exit_code, plan.stdout) == (0, "by_user: same\n"), plan.stderr
    verify = CliRunner().invoke(cli, ["features", "verify", "--json"])
    assert verify.exit_code == 0, verify.stderr
    assert json.loads(verify.stdout)["views"]["by_user"]["entities"] == 0


class TornBetweenParts(fallible.FallibleRedis):
    """A cluster to which things happen between the parts of a write, too."""

    def __init__(self, urls):
        super().__init__(urls, {"s": 30_000})
        self._ask = self.rows._client.ask

    def handle(self, generation, before_effect, tear):
        def ask(*commands):
            if commands and commands[0][:2] == ("EVAL", WRITE):
                before_effect()
            return self._ask(*commands)

        self.rows._client.ask = ask
        return super().handle(generation, before_effect, tear)


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(300), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_crash_between_the_parts_of_a_write_loses_nothing_and_does_nothing_twice(cluster, seeds):
    for seed in seeds:
        with closing(TornBetweenParts([server.url for server in cluster])) as store:
            store.restore([{} for _ in cluster])
            assert simulate(seed, store=store).wrong == [], seed
