"""The bench of training in small: what it prints, and that its rows are what it says."""

from __future__ import annotations

import json

import numpy as np
from als_library import needs_als
from click.testing import CliRunner

from headrace.bench.train import simulated, simulated_examples
from headrace.cli import cli


def test_each_fit_has_its_rows_seconds_and_memory():
    needs_als()
    done = CliRunner().invoke(cli, ["bench", "train", "--rows", "3000", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["bench"], report["peer"], report["ratio"]) == ("train", None, None)
    assert list(report["ours"]) == ["als", "ease", "ranker"]
    assert all(one["rows"] == 3000 and one["fit_s"] > 0 and one["peak_mb"] > 0 for one in report["ours"].values())


def test_simulated_users_have_tastes_and_the_same_seed_the_same_rows():
    first, second = simulated(20_000, 5), simulated(20_000, 5)
    np.testing.assert_array_equal(first.item, second.item)
    assert 0.6 < (first.item % 20 == first.user % 20).mean() < 0.75


def test_simulated_examples_can_be_learnt():
    rows = simulated_examples(5_000, 5)
    strong = np.nan_to_num(rows.inputs[:, 0]) > 1
    assert rows.taken[strong].mean() > 1.5 * rows.taken[~strong].mean()
