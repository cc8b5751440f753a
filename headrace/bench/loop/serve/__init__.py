"""`headrace bench serve`: a service that the bench starts, asked by wrk.

In: options of the command line. Out: a report as JSON or lines.
"""

from headrace.bench.loop.serve.command import serve_bench

__all__ = ["serve_bench"]
