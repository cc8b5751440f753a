"""The service on every interface of the machine: what other machines reach is its own port alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from serving_world import settings

from serving.access import added

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

SCRIPT = """
import json, sys, urllib.error, urllib.request
from serving.config import ServiceConfig
from serving.server import ray_server
config = ServiceConfig.model_validate_json(sys.argv[1])
with ray_server.served(config):
    assert urllib.request.urlopen(f"http://127.0.0.1:{config.port}/healthz").status == 200
    try:
        raise SystemExit(urllib.request.urlopen(f"http://127.0.0.1:{config.port}/v1/models").read())
    except urllib.error.HTTPError as error:
        assert error.code == 401
    open_ports = [each[1:] for each in ray_server._listeners() if not ray_server._is_loopback(each[1])]
print(json.dumps(open_ports))
"""


def test_beyond_this_machine_there_is_only_the_address_that_was_asked_for(tmp_path, monkeypatch):
    """Also where whoever starts it has switched Ray's authentication off; ~/.ray gets no token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    config = settings(tmp_path / "online.db", f"sqlite:///{tmp_path / 'none.db'}").model_copy(
        update={"host": "0.0.0.0", "keys": str(tmp_path / "keys.json")}
    )
    added(tmp_path / "keys.json", "ops", ("ops",), "headrace", 10.0, 0)
    command = [sys.executable, "-c", SCRIPT, config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    open_ports = {tuple(each) for each in json.loads(done.stdout.splitlines()[-1])}
    assert open_ports == {("0.0.0.0", config.port)}
    assert not (tmp_path / "home" / ".ray").exists()
