"""The shop's recommender as the feature repo defines it, and settings of its training."""

from __future__ import annotations

from pathlib import Path

from features.definitions.repo import load_repo
from training.settings import TrainingSettings

SHOP = load_repo(Path(__file__).resolve().parents[2] / "feature_repo" / "shop.py").recommenders["shop-recommender"]


def shop_settings(**changed: object) -> TrainingSettings:
    """The settings of the shop's training with these changes."""
    return TrainingSettings.of(SHOP, changed)
