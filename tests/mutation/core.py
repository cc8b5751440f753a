"""Mutation testing of the core: small faults planted one at a time, and whether its tests notice (`make mutation`).

Cosmic Ray makes the mutations, in a copy of the tracked files, and for each of them the tests of its module run in a
process of their own. A mutation that no test notices survives: it is printed as a diff. Annotations, which nothing
runs, and decorators are left alone.
"""

from __future__ import annotations

import ast
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[2]

SIMULATION = "tests/unit/test_stream_parts.py tests/parity/test_simulation.py"
STORES = "test_seen_ids test_writes_in_pieces test_online_store_contract test_online_store_stories"
IDS = " ".join(f"tests/unit/{name}.py" for name in STORES.split()) + " -k 'not redis and not cluster'"
LAWS = "tests/unit/test_testing.py tests/unit/test_checks.py tests/parity/test_paths_agree.py"
FOLD = f"tests/unit/test_fold.py tests/unit/test_rows.py tests/unit/test_answers.py {LAWS}"

CORE = {
    "features/events/dedupe.py": "tests/unit/test_duplicates.py",
    "features/definitions/windows.py": "tests/unit/test_definitions.py tests/unit/test_testing.py",
    "features/online_store/batch_step.py": SIMULATION,
    "features/online_store/pending.py": "tests/unit/test_pending.py tests/parity/test_pending_reads.py",
    "features/online_store/generation.py": IDS,
    "features/online_store/seen_ids/blocks.py": "tests/unit/test_seen_ids.py",
    "features/online_store/seen_ids/memory.py": IDS,
    "streaming/generations/switchover.py": "tests/unit/test_switchover.py tests/unit/test_active_folds.py",
    "streaming/scoring/decision_log.py": "tests/unit/test_decisions.py",
    "features/rows/folding.py": FOLD,
    "features/rows/kernels/merging.py": FOLD,
    "features/rows/kernels/walk.py": FOLD,
    "features/history/within_batch.py": "tests/parity/test_before_events.py",
    "features/history/finalizers.py": LAWS,
    "features/history/point_in_time_join.py": f"tests/parity/test_before_events.py {LAWS}",
    "features/history/ranges.py": LAWS,
}
"""Module → what its tests are, for pytest."""

PYTEST = "-q -x -n 0 -p no:cacheprovider"

TIMEOUT_S = 600.0


@click.command()
@click.option("--sample", type=int, help="Mutations of each module, drawn at random; all of them if not given.")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
@click.option("--only", multiple=True, help="A module of the core; may be repeated. All if not given.")
def main(sample: int | None, seed: int, only: tuple[str, ...]) -> None:
    """Plant faults in the core, and say which of them no test notices."""
    with tempfile.TemporaryDirectory() as folder:
        _copy(Path(folder))
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "NUMBA_CACHE_DIR": f"{folder}/.numba"}
        rows = []
        for path in only or CORE:
            rows.append(_tested(path, sample, seed))
            click.echo(_table(rows[-1:]))
    total = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
    click.echo(_table([*rows, ("all", *total)]))


def _table(rows: Sequence[tuple[str, int, int, int, float]]) -> str:
    scored = [(*row[:4], f"{row[3] / max(row[2], 1):.0%}", f"{row[4]:.0f}") for row in rows]
    return tabulate(scored, ("module", "mutations", "tried", "killed", "score", "seconds"), tablefmt="github")


def _copy(folder: Path) -> None:
    """The tracked files, and the environment, in the folder."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")


def _tested(path: str, sample: int | None, seed: int) -> tuple[str, int, int, int, float]:
    """The module's name, its mutations, those tried and those killed, and the time taken (s)."""
    began = time.monotonic()
    command = f"{sys.executable} -m pytest {PYTEST} {CORE[path]}"
    if subprocess.run(shlex.split(command), check=False, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"the tests of {path} fail without a mutation: {command}")
    made = _mutations(path)
    tried = made if sample is None else random.Random(seed).sample(made, min(sample, len(made)))
    killed = 0
    for mutation in tried:
        result = mutate_and_test([mutation], command, TIMEOUT_S)
        killed += result.test_outcome is not TestOutcome.SURVIVED
        if result.test_outcome is TestOutcome.SURVIVED:
            click.echo(f"survives: {mutation.operator_name}\n{result.diff}\n")
    return path, len(made), len(tried), killed, time.monotonic() - began


def _mutations(path: str) -> list[MutationSpec]:
    """Every mutation of what the module runs."""
    with use_db(":memory:", WorkDB.Mode.create) as database:
        init([Path(path)], database, {})
        found = [mutation for item in database.work_items for mutation in item.mutations]
    ignored = _annotations(path)
    return [one for one in found if "Decorator" not in one.operator_name and not _is_within(one.start_pos, ignored)]


Place = tuple[int, int]


def _annotations(path: str) -> list[tuple[Place, Place]]:
    """Where the module's annotations begin and end."""
    nodes = list(ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))))
    noted = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    return [((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)) for one in noted if one is not None]


def _is_within(place: Place, spans: list[tuple[Place, Place]]) -> bool:
    return any(begin <= place < end for begin, end in spans)


if __name__ == "__main__":
    main()
