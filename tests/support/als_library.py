"""The system library that ALS requires and some machines lack."""

from __future__ import annotations

import ctypes

import pytest


def needs_als() -> None:
    """Skips the test if the system library that ALS is linked with is missing."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        pytest.skip(f"ALS requires libgomp.so.1 (apt-get install libgomp1): {error}")
