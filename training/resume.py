"""The finished stages of a training, kept until it ends, so that one that was killed goes on from there.

    <home>/training/<model>/training.json    the training: its key, the versions of its tables, when it began
                            examples.npz …   a file a stage, whole or not there

The key is of everything that a result depends on: settings, seed, definitions, code, libraries. Files are arrays and
skops: reading them runs nothing that they hold.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from features.errors import HeadraceError
from features.machine import replaced, write_text
from models.classifier_file import load_ranker, save_ranker
from models.recommender import CandidateTables, candidate_arrays, candidate_tables, read_arrays
from training.progress import Log, silent

T = TypeVar("T")

ABOUT = "training.json"

MOST_TIMES = 3
"""A training that was begun so often and never ended starts over: a kept stage may be what kills it."""

HOUR_MS = 3_600_000

YOUNG_MS = 6 * HOUR_MS
"""A training that was begun longer ago starts over, on newer events."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Form(Generic[T]):
    """The file format of a stage's result."""

    suffix: str
    write: Callable[[T, Path], None]
    read: Callable[[Path], T]


def _write_arrays(arrays: Arrays, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


ARRAYS: Form[Arrays] = Form("npz", _write_arrays, _read_arrays)

TABLES: Form[CandidateTables] = Form(
    "npz",
    lambda tables, path: _write_arrays(candidate_arrays(tables), path),
    lambda path: candidate_tables(read_arrays(path), path),
)


def ranker_of(inputs: int) -> Form[Any]:
    """A fitted ranker of so many inputs."""
    return Form("skops", save_ranker, lambda path: load_ranker(path, inputs))


class Stages:
    """Results of stages, by name: of a folder, or (None) kept nowhere."""

    def __init__(self, folder: Path | None = None, log: Log = silent) -> None:
        self._folder = folder
        self._log = log

    def keep(self, name: str, form: Form[T], make: Callable[[], T]) -> T:
        """The stage's result: as it is kept, else made, and kept from now on."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.{form.suffix}"
        if path.exists():
            try:
                result = form.read(path)
            except (HeadraceError, OSError, ValueError, KeyError, zipfile.BadZipFile):
                self._log(f"{name}: what was kept is damaged")
            else:
                self._log(f"{name}: kept from before")
                return result
        made = make()
        with replaced(path) as fresh:
            form.write(made, fresh)
        return made


NOWHERE = Stages()


class About(BaseModel):
    """The training that has not ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """A digest of everything that its results depend on, but for the events."""
    tables: dict[str, tuple[str, int]]
    """Stream → the id and the version of its table: its events."""
    begun_ms: int
    times: int = 1
    """The times that it was begun."""


class Unfinished:
    """The folder of a model's training that has not ended yet; at most one of each model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resumable(self, key: str, now_ms: int, young_ms: int = YOUNG_MS) -> About | None:
        """The training of this key that was begun and not ended, of which some stage is kept; None without one."""
        try:
            about = About.model_validate_json((self.folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None
        young = 0 <= now_ms - about.begun_ms < young_ms and about.times < MOST_TIMES
        return about if about.key == key and young and self._kept() else None

    def _kept(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name != ABOUT and not path.name.startswith(".")]

    @contextmanager
    def begun(self, about: About, resumed: bool, log: Log = silent) -> Iterator[Stages]:
        """Stages are kept here; nothing is when the block has ended, also where it was refused (HeadraceError).

        What ends it otherwise (a kill, Ctrl-C, a registry that is away) leaves them for the next training.
        """
        if not resumed:
            self.forget()
        self.folder.mkdir(parents=True, exist_ok=True)
        times = about.model_copy(update={"times": about.times + 1}) if resumed else about
        write_text(self.folder / ABOUT, times.model_dump_json())
        try:
            yield Stages(self.folder, log)
        except HeadraceError:
            self.forget()
            raise
        else:
            self.forget()

    def forget(self) -> None:
        """Deletes all that is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


def key_of(parts: Mapping[str, Any]) -> str:
    """A digest of these JSON values."""
    from hashlib import sha256

    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
