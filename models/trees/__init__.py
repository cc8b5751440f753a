"""Boosted trees as flat arrays, walked by a compiled kernel.

In: a fitted classifier. Out: its probabilities, to the last bit and many times faster.
"""

from models.trees.flat import FlatTrees, flat_trees, walk

__all__ = ["FlatTrees", "flat_trees", "walk"]
