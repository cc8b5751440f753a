"""The group `headrace bench`, and the form of its reports: JSON for a program, lines for a person."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from headrace.console import print_report


@click.group()
def bench() -> None:
    """Measure Headrace on this machine; where a peer exists, the peer in the same run.

    \b
    Examples:
      headrace bench core --json
      headrace bench freshness --json
      headrace bench throughput --json
    """


def machine(used: int | None = None) -> str:
    """The machine in words: its architecture, its processors and Python's version.

    Args:
        used: the number of processors that the bench runs on; None for all of them.
    """
    processors = f"{os.cpu_count()}" if used is None else f"{used} of {os.cpu_count()}"
    return f"{platform.machine()}, {processors} processors, Python {platform.python_version()}"


def bench_report(
    name: str,
    ours: Mapping[str, Any],
    peer: Mapping[str, Any] | None = None,
    ratio: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The report of the bench, as --json prints it.

    Args:
        more: further parts, such as ``limits``; a ``machine`` among them replaces the one in words.
    """
    return {"bench": name, "machine": machine(), "ours": ours, "peer": peer, "ratio": ratio, **more}


def write_report(
    report: Mapping[str, Any], as_json: bool, details: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
) -> None:
    """The report is on stdout: as JSON, or as the machine and the details, a label and a text a line."""
    about = report["machine"] if isinstance(report["machine"], str) else machine()
    lines = [("machine", about), *details(report)]
    print_report(report, as_json, lambda _: [f"{label:12}{text}".rstrip() for label, text in lines])
