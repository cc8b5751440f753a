"""The texts that can identify an entity or an event."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Int64s, bytes_of

MOST_BYTES = 256
"""Bytes of an identifier in UTF-8."""

IDENTIFIER = f"1 to {MOST_BYTES} bytes of UTF-8 with a character that is no space, and no control characters"

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What _CONTROL is, for one text."""

SPACE, DELETE = b" \x7f"

_CONTROL = r"[\p{Cc}\p{Zl}\p{Zp}]"

_BEGINS_A_SPACE, _IN_A_CONTROL = np.zeros((2, 256), dtype=bool)
_BEGINS_A_SPACE[[*range(0x21), 0xC2, 0xE1, 0xE2, 0xE3]] = True
_IN_A_CONTROL[[*range(0x20), 0x7F, 0xC2, 0xE2]] = True
"""The first bytes in UTF-8 of all spaces, and the bytes of which each control character has one."""


def may_identify(text: str) -> bool:
    """True for a text of at most MOST_BYTES without control characters."""
    return (
        len(text) <= MOST_BYTES
        and len(text.encode("utf-8", "surrogatepass")) <= MOST_BYTES
        and not CONTROL.search(text)
    )


def unusable(texts: pa.Array) -> Bools:
    """True for each text that cannot be an identifier (IDENTIFIER); False for a null, which identifies nothing."""
    if texts.null_count == len(texts):
        return np.zeros(len(texts), dtype=bool)
    offsets, data = bytes_of(texts)
    lengths = np.diff(offsets)
    broken: Bools = (lengths == 0) | (lengths > MOST_BYTES)
    if not _all_visible(data):
        if _may_be_blank(data, offsets[:-1]):
            broken |= _filled(pc.equal(pc.utf8_trim_whitespace(texts), ""))
        if _may_have_controls(data):
            broken |= _filled(pc.match_substring_regex(texts, _CONTROL))
    if texts.null_count:
        broken &= np.asarray(texts.is_valid())
    return broken


def _filled(mask: pa.Array) -> Bools:
    filled: Bools = np.asarray(pc.fill_null(mask, fill_value=False))
    return filled


# These look at the bytes of all texts at once, as Arrow's functions on texts cost up to a hundred times as much.


def _all_visible(data: NDArray[np.uint8]) -> bool:
    """True if all are ASCII that is neither a space nor a control character."""
    return not len(data) or bool(data.min() > SPACE and data.max() < DELETE)


def _may_be_blank(data: NDArray[np.uint8], starts: Int64s) -> bool:
    """Whether a text can be of spaces alone."""
    return bool(_BEGINS_A_SPACE[data[np.minimum(starts, len(data) - 1)]].any())


def _may_have_controls(data: NDArray[np.uint8]) -> bool:
    """Whether a text can match _CONTROL."""
    return bool(_IN_A_CONTROL[data].any())
