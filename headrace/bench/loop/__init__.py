"""Benches that need the loop: a broker, a stream or a service that the bench starts and stops.

In: options of the command line. Out: a report as JSON or lines.
"""

__all__ = []
