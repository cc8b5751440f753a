"""The walk over boosted trees, compiled by features/compiling.py; as Python it computes the same, slowly."""

from __future__ import annotations

from typing import Any

import numpy as np

LANES = 8
"""Rows that are walked side by side, so that the processor has other steps to do while one waits for memory."""

LARGEST = np.finfo(np.float64).max
"""Stands for +inf in inputs and thresholds, so that a missing value (inf) can be above every threshold."""

SIGNATURE = (
    "void(Array(float64, 2, 'C', readonly=True), Array(int32, 1, 'C', readonly=True),"
    " Array(float64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True),"
    " Array(float64, 1, 'C', readonly=True), float64, Array(float64, 1, 'C'))"
)


def sum_leaves(  # noqa: C901, PLR0913, PLR0917  # one function is one compiled kernel, and it takes arrays alone
    inputs: Any,
    columns: Any,
    missing: Any,
    starts: Any,
    depths: Any,
    nodes: Any,
    thresholds: Any,
    values: Any,
    baseline: float,
    sums: Any,
) -> None:
    """Each row's sum: the baseline, then the value of its leaf in each tree, added in the order of the trees.

    A walk makes the same number of steps for every row: a leaf is its own next node, as nothing is above its threshold.

    Args:
        inputs: (n, columns of the classifier), NaN for a missing value.
        columns, missing: of each slot its column, and what stands for a missing value there, -inf or +inf.
        starts, depths: the first node of each tree, and the number of steps to its deepest leaf.
        nodes: of each node its left child, counted from the tree's first node, in the upper 32 bits (the right child is
            the next node), and its slot times LANES in the lower.
        thresholds: a value above it goes right.
        values: of leaves; 0 of other nodes.
        sums: (n,), the output.
    """
    slots = np.empty(len(columns) * LANES)
    at = np.empty(LANES, np.int64)
    total = np.empty(LANES)
    for first in range(0, len(inputs), LANES):
        rows = min(LANES, len(inputs) - first)
        for slot in range(len(columns)):
            for lane in range(LANES):
                value = inputs[first + min(lane, rows - 1), columns[slot]]
                if np.isnan(value):
                    value = missing[slot]
                elif value == np.inf:
                    value = LARGEST
                slots[slot * LANES + lane] = value
        for lane in range(LANES):
            total[lane] = baseline
        for tree in range(len(starts)):
            start = starts[tree]
            for lane in range(LANES):
                at[lane] = 0
            for _ in range(depths[tree]):
                for lane in range(LANES):
                    node = nodes[start + at[lane]]
                    above = slots[(node & 0xFFFFFFFF) + lane] > thresholds[start + at[lane]]
                    at[lane] = (node >> 32) + above
            for lane in range(LANES):
                total[lane] += values[start + at[lane]]
        for lane in range(rows):
            sums[first + lane] = total[lane]
