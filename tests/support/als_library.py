"""What only some machines have, and ALS needs."""

from __future__ import annotations

import ctypes

import pytest


def needs_als() -> None:
    """Skips the test where the library of the system is missing that ALS is linked with."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        pytest.skip(f"ALS requires libgomp.so.1 (apt-get install libgomp1): {error}")
