"""A registry of models with a folder for each version, aliases in memory, and a switch that takes it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from small_shop import model

from models.recommender.artefact import Golden, save
from models.recommender.golden import goldens_of
from models.registry import Pinned, RegistryError
from models.tags import CHAMPION, SERVING_REFUSED


class Folders:
    """A registry with a folder for each version and aliases; it raises while ``down``."""

    def __init__(self, root: Path) -> None:
        self.root, self.down = root, False
        self.versions: dict[str, Pinned] = {}
        self.aliases: dict[str, str] = {}
        self.reported: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def add(self, created_ms: int, refusal: str | None = None, wrong: bool = False) -> str:
        version = str(len(self.versions) + 1)
        artefact = model()
        goldens = goldens_of(artefact)
        if wrong:
            goldens = (Golden(recent=(), answer=(("pen", 0.123),)),)
        manifest = artefact.manifest.model_copy(update={"created_ms": created_ms, "golden": goldens})
        digest = save(replace(artefact, manifest=manifest), self.root / version)
        self.versions[version] = Pinned(version, str(self.root / version), digest, refusal)
        return version

    @property
    def alias(self) -> str | None:
        """The version that is the champion."""
        return self.aliases.get(CHAMPION)

    @alias.setter
    def alias(self, version: str) -> None:
        self.aliases[CHAMPION] = version

    def find(self, name: str) -> Pinned | None:
        if self.down:
            raise RegistryError("registry", "an answer", "none")
        return self.versions.get(self.aliases.get(name, name))

    def listed(self) -> dict[str, Pinned]:
        if self.down:
            raise RegistryError("registry", "an answer", "none")
        return {name: self.versions[number] for name, number in self.aliases.items()} | self.versions

    @contextmanager
    def fetch(self, pinned: Pinned) -> Iterator[Path]:
        yield Path(pinned.source)

    def report(self, pinned: Pinned, reason: str, tag: str = SERVING_REFUSED) -> None:
        if self.down:
            raise RegistryError("registry", "an answer", "none")
        self.reported[pinned.version] = reason
        self.tags.setdefault(pinned.version, {})[tag] = reason
