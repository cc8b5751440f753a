"""Paths in the settings of Feast's plug-ins."""

from __future__ import annotations

from pathlib import Path

from feast.repo_config import RepoConfig


def in_repo(config: RepoConfig, path: str = "") -> Path:
    """The path, relative to the folder of feature_store.yaml."""
    return Path(config.repo_path or ".") / path
