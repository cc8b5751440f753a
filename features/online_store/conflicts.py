"""The errors of drivers that meet in a store, and of a store that lost what was written to it."""

from __future__ import annotations

from features.errors import FenceError, LeaseError, StoreError

REBUILD = "Run 'headrace features rebuild' to make the rows anew from the offline store."


def overtaken(stream_id: int, expected: int, actual: int) -> LeaseError:
    """The error of a driver whose generation another has written to."""
    return LeaseError(
        f"a write to generation {stream_id}",
        f"version {expected}, which this driver left",
        f"version {actual}: another driver wrote, or the store lost writes",
        "Run the batch again; one driver at a time may own a generation.",
    )


def held(stream_id: int, owner: str, left_ms: int) -> LeaseError:
    """The error of one who takes a lease, or changes or drops what it is for, while another holds it."""
    return LeaseError(
        f"the lease of generation {stream_id}",
        "nobody else to hold it",
        f"'{owner}', for {left_ms / 1000:.1f} s more",
        "Stop the other driver, or wait until its lease has ended.",
    )


def claimed(store: str, owner: str, left_ms: int) -> LeaseError:
    """The error of a home that would drive a store which another drives, or drove last (left_ms is below zero)."""
    if left_ms > 0:
        got = f"'{owner}', which drives it for {left_ms / 1000:.1f} s more"
        next_step = "Stop that stream; or give this project a store, or on a Redis a project name, of its own."
    else:
        got = f"'{owner}', which drove it last"
        next_step = (
            "Give this project a store, or on a Redis a project name, of its own; or, if that home is gone for good, "
            "run 'headrace stream --take-over': this home then makes the rows anew."
        )
    return LeaseError(store, "to be driven by this home alone", got, next_step)


def lost(stream_id: int, known: int, actual: int) -> FenceError:
    """The error of a store that came back without what was written to it."""
    return FenceError(
        f"generation {stream_id}",
        f"a store that has the {known} writes of each of its parts",
        f"one that has {actual} in a part: it lost writes",
        REBUILD,
    )


def evicted(stream_id: int, key: str) -> FenceError:
    """The error of a driver whose store has lost a whole table."""
    return FenceError(
        f"generation {stream_id}",
        "a store that keeps each table that was written to it",
        f"one that has lost {key}, as a Redis does that evicts keys",
        f"Set maxmemory-policy noeviction there. {REBUILD}",
    )


def for_reader(error: FenceError) -> StoreError:
    """The error of a reader that finds what a driver would be stopped by: without it, every entity would look new."""
    return StoreError(error.where, error.required, error.got, error.next_step)


def evicts(policy: str) -> StoreError:
    """The error of a stream that is to write to a store which may drop rows."""
    return StoreError(
        "the online store",
        "a Redis that evicts no rows (maxmemory-policy noeviction)",
        f"maxmemory-policy {policy}",
        "Set it with CONFIG SET maxmemory-policy noeviction, and in its configuration file.",
    )
