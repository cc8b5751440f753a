"""What all tests share: one printed seed, where failing examples are kept, and the real files."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import hypothesis
import prometheus_client  # noqa: F401  # before Feast, whose import switches it to files that processes share
import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HEADRACE_DATA", ROOT.parent / "shared" / "data"))
SEED = pytest.StashKey[int]()

hypothesis.settings.register_profile(
    "headrace",
    max_examples=int(os.environ.get("HEADRACE_EXAMPLES", "100")),  # more of them for a longer search
    derandomize=False,  # every run looks somewhere new; the seed in the header brings it back
    print_blob=True,
    deadline=None,  # a slow moment of a busy machine is not a failure
    database=hypothesis.database.DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples"),
)
hypothesis.settings.load_profile("headrace")


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist are processes of their own: they inherit the seed by this variable.
    text = os.environ.setdefault("HEADRACE_SEED", str(random.SystemRandom().randrange(2**32)))
    if not text.isdecimal():
        message = f"HEADRACE_SEED requires a whole number; got {text!r}."
        raise pytest.UsageError(message)
    config.stash[SEED] = int(text)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[SEED]} (HEADRACE_SEED={config.stash[SEED]} runs the same examples again)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # By the attribute that hypothesis.seed() sets: that function, and --hypothesis-seed, would also switch off the
    # database, and then an example that failed once need not come back in the next run.
    for item in items:
        test = getattr(item, "function", None)
        if getattr(test, "is_hypothesis_test", False):
            if not hasattr(test, "_hypothesis_internal_use_seed"):
                message = "this version of Hypothesis takes its seed in another way: mend tests/conftest.py"
                raise pytest.UsageError(message)
            test._hypothesis_internal_use_seed = config.stash[SEED]


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The run's seed, for tests with a random generator of their own."""
    return pytestconfig.stash[SEED]


@pytest.fixture(scope="session")
def real_file() -> Callable[[str], Path]:
    """real_file("online-retail.parquet") is that file's path, or skips the test where the machine has no copy."""

    def find(name: str) -> Path:
        if not (DATA / name).exists():
            pytest.skip(f"{name} is not on this machine (set HEADRACE_DATA to the folder that holds it)")
        return DATA / name

    return find
