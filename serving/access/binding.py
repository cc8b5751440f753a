"""The rule of where a service listens: beyond this machine only with keys."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from features.errors import UsageError
from serving.access.key_file import read_keys

NAME_OF_LOOPBACK = "localhost"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service on this address; False for a name other than localhost."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == NAME_OF_LOOPBACK


def check_access(host: str, keys: Path | None) -> bool:
    """Whether the service asks for keys: wherever it has a file of them.

    Raises:
        UsageError: the host is reached from other machines, and there is no key.
        KeyFileError: the file of keys is none.
    """
    held = None if keys is None else read_keys(keys)
    if not held and not is_loopback(host):
        required = "an address of this machine alone, such as 127.0.0.1, while there are no keys"
        step = "Others could read and write everything; first: 'headrace keys add NAME --scope read'."
        raise UsageError("serving.host", required, repr(host), step)
    return held is not None
