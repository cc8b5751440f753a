"""`headrace bench train`: time and memory of fitting models to a million rows."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.report import bench_report, write_report
from headrace.console import JSON

if TYPE_CHECKING:
    from training.recommender import RankerExamples, Taken

USERS_SHARE, ITEMS, TASTES = 0.05, 4_000, 20

VIEW_INPUTS = 90
"""A shop's ranker has so many inputs besides the pair features."""

NULLS = 0.1

AS_OF_MS = 1_700_000_000_000

SPAN_MS = 90 * 86_400_000

MEGABYTE = 1 << 20


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(min=1_000), help="Of each.")
@click.option("--seed", default=0, show_default=True, help="Of the rows.")
@JSON
def train(rows: int, seed: int, as_json: bool) -> None:
    """Fit EASE and ALS to so many interactions, and the ranker to so many examples, one after the other.

    The interactions are simulated: users of twenty tastes, items of Zipf's popularity. Each line says the seconds and
    the most memory that the process had held until then, so that the first is the smallest.

    \b
    Examples:
      headrace bench train
      headrace bench train --rows 100000 --json
    """
    from training.recommender import Als, Ease, fit_ranker
    from training.settings import TrainingSettings

    taken, settings = simulated(rows, seed), TrainingSettings.model_validate({"seed": seed})
    shape = {"rows": len(taken), "users": taken.users, "items": taken.items}
    ours = {
        "als": shape | timed(lambda: Als().fit(taken, AS_OF_MS)),
        "ease": shape | timed(lambda: Ease().fit(taken, AS_OF_MS)),
    }
    examples = simulated_examples(rows, seed)
    shape = {"rows": rows, "inputs": examples.inputs.shape[1]}
    ours["ranker"] = shape | timed(lambda: fit_ranker(examples, settings))
    machine = {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()}
    write_report(bench_report("train", ours, machine=machine), as_json, details)


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    return [
        (name, f"{fit['rows']:>12,} rows {fit['fit_s']:8.1f} s {fit['peak_mb']:8,} MB")
        for name, fit in report["ours"].items()
    ]


def timed(fit: Callable[[], object]) -> dict[str, Any]:
    """Seconds of the fit, and the most memory (MiB) that the process has held until its end."""
    started = perf_counter()
    fit()
    took_s = perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"fit_s": round(took_s, 3), "peak_mb": peak // MEGABYTE}


def simulated(rows: int, seed: int) -> Taken:
    """So many interactions of a twentieth of as many users; each takes two thirds from a taste of its own."""
    import numpy as np

    from training.recommender import Taken

    rng, users = np.random.default_rng(seed), max(int(rows * USERS_SHARE), 1)
    user = rng.integers(0, users, rows)
    popularity = 1 / np.arange(1, ITEMS + 1)
    item = rng.choice(ITEMS, rows, p=popularity / popularity.sum())
    by_taste = rng.random(rows) < 2 / 3
    item[by_taste] = item[by_taste] // TASTES * TASTES + user[by_taste] % TASTES
    return Taken(users, ITEMS, user, item, np.ones(rows), AS_OF_MS - rng.integers(1, SPAN_MS, rows))


def simulated_examples(rows: int, seed: int) -> RankerExamples:
    """So many rows of as many inputs as a shop's ranker has, a tenth of them null; a few inputs say what is taken."""
    import numpy as np

    from models.recommender import PAIR_FEATURES
    from training.recommender import RankerExamples

    rng = np.random.default_rng(seed)
    inputs = rng.gamma(1.0, size=(rows, len(PAIR_FEATURES) + VIEW_INPUTS))
    chance = 1 / (1 + np.exp(3 - inputs[:, 0] - 0.5 * inputs[:, 5] + 0.3 * inputs[:, -1]))
    taken = rng.random(rows) < chance
    inputs[rng.random(inputs.shape) < NULLS] = np.nan
    return RankerExamples(inputs, taken)
