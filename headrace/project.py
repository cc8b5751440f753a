"""A project: its folder, settings and definitions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from headrace.settings import Settings, read_settings

if TYPE_CHECKING:
    from features.definitions import FeatureRepo


@dataclass(frozen=True)
class Project:
    """The project in the folder ``root``."""

    root: Path
    settings: Settings

    @classmethod
    def open(cls, root: Path | None = None) -> Self:
        """The project in this folder, or in the current one, with the settings of its files and the environment.

        Raises:
            UsageError: an invalid setting.
        """
        from models.registry import allow_sources

        folder = Path.cwd() if root is None else root
        project = cls(folder, read_settings(folder, os.environ))
        allow_sources(project.model_sources)
        return project

    @property
    def model_sources(self) -> tuple[str, ...]:
        """The folders and prefixes of addresses from which models may be fetched, beside the registry's own."""
        sources = self.settings.mlflow.sources
        return tuple(source if "://" in source else str((self.root / source).resolve()) for source in sources)

    @property
    def home(self) -> Path:
        """The folder of running state."""
        return self.root / self.settings.home

    @property
    def offline(self) -> Path:
        """The folder of the offline store's tables."""
        return self.root / self.settings.offline.path

    @property
    def definitions(self) -> Path:
        """The folder of the definitions."""
        return self.root / self.settings.stream.repo

    @property
    def keys(self) -> Path:
        """The file of the service's keys."""
        written = self.settings.serving.keys
        return self.root / written if written else self.home / "keys.json"

    @cached_property
    def tenant(self) -> str:
        """Whose service it is. Raises UsageError where feature_store.yaml has to say so and is missing."""
        from features.online_store import read_settings_of

        return self.settings.serving.tenant or read_settings_of(self.definitions / "feature_store.yaml").project

    @cached_property
    def repo(self) -> FeatureRepo:
        """The definitions. Raises DefinitionError where they do not load."""
        from features.definitions import load_repo

        return load_repo(self.definitions)
