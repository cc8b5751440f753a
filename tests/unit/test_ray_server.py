"""The Ray of the service: its token, and the check of what its processes listen on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from features.machine import free_port
from serving.server.ray_server import AUTHENTICATION, ServeError, check_listeners, own_token


@contextmanager
def listening(address: str, port: int) -> Iterator[None]:
    """A child process listens on the address."""
    family = "AF_INET6" if ":" in address else "AF_INET"
    script = f"import socket; s = socket.socket(socket.{family}); s.bind(({address!r}, {port})); s.listen(); "
    script += "print('on', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        yield
        child.kill()


def test_a_port_that_is_open_to_other_machines_ends_the_start():
    port = free_port()
    with listening("0.0.0.0", port):
        for host, asked in (("127.0.0.1", port), ("0.0.0.0", port + 1), ("10.0.0.1", port)):
            with pytest.raises(ServeError, match=rf"on 0\.0\.0\.0:{port}"):
                check_listeners(host, asked)
        check_listeners("0.0.0.0", port)
        check_listeners("::", port)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.7", "::1"])
def test_ports_of_the_loopback_are_for_this_machine(address):
    with listening(address, free_port()):
        check_listeners("127.0.0.1", 8000)


def test_the_token_is_its_owners_and_the_environment_is_as_before_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "known to others")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with own_token(tmp_path):
        path = tmp_path / "auth_token"
        assert {name: os.environ.get(name) for name in AUTHENTICATION} == {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": None,
            "RAY_AUTH_TOKEN_PATH": str(path),
        }
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(path.read_text()) == 64
    assert os.environ["RAY_AUTH_TOKEN"] == "known to others"
    assert (os.environ["RAY_AUTH_MODE"], "RAY_AUTH_TOKEN_PATH" in os.environ) == ("disabled", False)
