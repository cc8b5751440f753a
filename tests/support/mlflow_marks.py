"""Marks of tests that train or register with MLflow."""

from __future__ import annotations

import pytest

MLFLOW_TEST = [
    pytest.mark.integration,
    # Of the libraries that mlflow imports; our own warnings stay errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
