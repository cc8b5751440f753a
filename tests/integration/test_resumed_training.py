"""A training on a sample that is killed for real, and the next one, which goes on from what was finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from deltalake import write_deltalake
from mlflow_marks import MLFLOW_TEST
from shop_history import shop
from shop_training import SHOP, shop_settings

from headrace.commands.models.train import train
from training.data.dataset import Domain, read_offline
from training.data.sampling import EventLimit
from training.recommender.fit import train as fit
from training.registry import ModelRegistry
from training.run import TrainingRun

pytestmark = MLFLOW_TEST
ROOT = Path(__file__).resolve().parents[2]
SET = {"iterations": 10, "ease_l2": 20.0, "target_events": 50, "moments": 300, "ranker_positives": 20}
MOST = 900
"""Events that fit, of about 1,300."""


def test_a_training_that_was_killed_after_its_examples_goes_on_to_what_it_would_have_come_to(tmp_path):
    domain = Domain.of(SHOP)
    events = shop(domain)
    (tmp_path / "feature_repo").symlink_to(ROOT / "feature_repo")
    archive = tmp_path / ".headrace" / "offline" / "activity"
    write_deltalake(archive, events)
    changed = [f"--set={name}={value}" for name, value in {**SET, "max_events": MOST}.items()]
    options = ["--root", str(tmp_path), "--json", *changed]
    command = [sys.executable, "-m", "headrace", "train", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        begun = next((line for line in first.stderr if line.startswith("a ranker from")), "")
        first.kill()
    assert begun
    assert first.returncode == -9
    kept = tmp_path / ".headrace" / "training" / "shop-recommender"
    assert {"examples.npz", "training.json"} <= {path.name for path in kept.iterdir()}

    write_deltalake(archive, shop(domain, visits=20, seed=6), mode="append")  # what the stream has archived meanwhile
    done = CliRunner().invoke(train, options, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["resumed"] is True
    assert "going on with a training that did not end" in done.stderr
    assert "examples: kept from before" in done.stderr
    assert "similar items from" not in done.stderr.replace("similar items from everything", "")
    sample = read_offline(archive.parent, domain, bound=EventLimit(MOST), versions={"activity": 0})
    whole = fit(TrainingRun.of(sample, domain, shop_settings(**SET)), 7)
    rows = [{key: one for key, one in row.items() if key not in ("model", "took_s")} for row in report["rows"]]
    assert rows == [dict(row.metrics) for row in whole.rows]
    assert (report["examples"], report["split"]["end"]) == (whole.learnt.examples, whole.run.split.end)
    version = ModelRegistry("sqlite:///mlruns/mlflow.db", tmp_path).get("shop-recommender", "1")
    assert json.loads(version.tags["data_versions"]) == {"activity": 0}
    assert f"of {events.num_rows:,} events" in done.stderr
    assert json.loads(version.tags["sample"]) == report["sample"]
    assert not kept.exists()
