"""What `headrace bench` measures, with a peer in the same run where there is one.

In: options of the command line. Out: a report as JSON or lines.
"""

__all__ = []
