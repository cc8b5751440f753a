"""The verbs of `headrace features`.

In: arguments, definitions, a file or the stores. Out: tables or JSON on stdout.
"""

__all__ = []
