"""The verbs of the command line, one module each; headrace/cli.py imports one when it is called.

In: arguments and the settings of the project. Out: data on stdout, everything else on stderr.
"""

__all__ = []
