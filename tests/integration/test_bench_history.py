"""`headrace bench point-in-time`, made small: its report, and every row of the spine back from both stores."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def test_both_stores_give_back_every_row_of_the_spine(tmp_path):
    command = [sys.executable, "-m", "headrace", "bench", "point-in-time", "--json"]
    sizes = ["--spine", "400", "--events", "4000", "--repeat", "1"]
    done = subprocess.run([*command, *sizes], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"bench", "machine", "ours", "peer", "ratio"} == set(report)
    assert report["bench"] == "point-in-time"
    assert report["ours"]["rows_back"] == report["peer"]["rows_back"] == 400
    assert report["ours"]["features"] >= 10
    assert report["ratio"] == pytest.approx(report["peer"]["seconds"] / report["ours"]["seconds"], rel=0.05)
