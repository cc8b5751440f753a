"""Values as messages and files have them → typed columns: the same rule wherever a value was taken from.

In: Arrow arrays of values that were taken, and how the definitions say to read them. Out: our dtypes, epoch ms, and a
reason for each value that is refused.
"""

__all__ = ["conversion", "reasons", "texts", "times", "written"]
