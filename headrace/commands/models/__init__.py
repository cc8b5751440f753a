"""The verbs that train, evaluate, compare and register models.

In: arguments, the archive or a file, the registry. Out: reports on stdout, registered versions and aliases.
"""

__all__ = []
