"""Keys: made, kept as hashes in a file of their owner's alone, revoked; and what a service makes of the file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat

import pytest
from click.testing import CliRunner
from hand_clock import Clock
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UsageError
from features.redaction import redacted
from headrace import cli
from headrace.commands import doctor
from serving.access.binding import check_access, is_loopback
from serving.access.key_file import KeyFileError, added, read_keys, revoked
from serving.access.key_ring import LOOK_EVERY_S, KeyRing

FAR = 4_000_000_000_000


def a_key(path, name="web", scopes=("read",), tenant="shop", rate=10.0, expires_at=None):
    return added(path, name, scopes, tenant, rate, 1_700_000_000_000, expires_at)


def test_the_file_has_the_hash_of_a_key_and_not_the_key_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "home" / "keys.json"
    before = os.umask(0)
    try:
        made = a_key(path)
    finally:
        os.umask(before)
    content = path.read_text()
    assert made.text not in content
    assert made.text.rpartition("_")[2] not in content
    assert made.key.sha256 == hashlib.sha256(made.text.encode()).hexdigest()
    assert made.key.sha256 in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path) == (made.key,)


def test_a_change_keeps_the_others_and_the_mode(tmp_path):
    path = tmp_path / "keys.json"
    first, second = a_key(path, "a"), a_key(path, "b")
    assert len({first.text, second.text}) == 2
    assert revoked(path, "a") == first.key
    assert read_keys(path) == (second.key,)
    revoked(path, "b")
    assert read_keys(path) == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_name_is_one_key_and_what_is_not_there_is_not_revoked(tmp_path):
    path = tmp_path / "keys.json"
    a_key(path, "a")
    with pytest.raises(UsageError, match="key 'a' requires a name that is free"):
        a_key(path, "a")
    with pytest.raises(UsageError, match="key 'b' requires one of a; got none of this name"):
        revoked(path, "b")


def _adds(path, number):
    a_key(path, f"k{number}")


def test_changes_of_several_processes_wait_for_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "keys.json"
    processes = [context.Process(target=_adds, args=(path, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {key.name for key in read_keys(path)} == {f"k{number}" for number in range(8)}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 2, "keys": []}', b'{"version": 1}', b'{"version": 1, "keys": [{}]}', b"\xff"],
)
def test_a_file_of_anything_else_is_named(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"keys.json requires what 'headrace keys' writes"):
        read_keys(path)


CHANGES = {
    "rate": [0, -1, 1e400, "10", None, 1e7],
    "scopes": [[], ["write"], ["events"], ["events:"], ["read "], "read"],
    "sha256": ["", "0" * 63, "G" * 64],
    "id": ["", "0" * 13, "../../.."],
    "name": ["", "a/b", "a\n", "a" * 65],
    "more": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in CHANGES.items() for value in values])
def test_a_key_of_the_file_is_whole_or_refused(tmp_path, field, value):
    path = tmp_path / "keys.json"
    a_key(path)
    content = json.loads(path.read_text())
    content["keys"][0][field] = value
    path.write_text(json.dumps(content).replace("Infinity", "1e400"))
    with pytest.raises(KeyFileError):
        read_keys(path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o660])
def test_a_file_that_others_may_write_is_refused(tmp_path, mode):
    path = tmp_path / "keys.json"
    a_key(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_keys(path)


def test_two_keys_of_a_name_or_of_an_id_are_refused(tmp_path):
    path = tmp_path / "keys.json"
    a_key(path)
    content = json.loads(path.read_text())
    for change in ({"name": "other"}, {"id": "0" * 12}):
        path.write_text(json.dumps({"version": 1, "keys": [content["keys"][0], content["keys"][0] | change]}))
        with pytest.raises(KeyFileError, match="that differ"):
            read_keys(path)


def test_a_key_is_hidden_in_every_text(tmp_path):
    made = a_key(tmp_path / "keys.json")
    for text in (f"got {made.text}", f"X-API-Key: {made.text}", f"{{'x': '{made.text}'}}", made.text):
        assert made.text.rpartition("_")[2] not in redacted(text)


# --- a running service ------------------------------------------------------------------------------------------------


def test_a_revoked_key_is_none_at_the_next_look_at_the_file(tmp_path):
    path, clock = tmp_path / "keys.json", Clock(100.0)
    made, other = a_key(path, "a"), a_key(path, "b")
    ring = KeyRing(path, clock=clock)
    assert ring.is_required()
    assert ring.holder(made.text.encode()).principal.name == "a"
    revoked(path, "a")
    clock.now += LOOK_EVERY_S
    assert ring.is_required()
    assert ring.holder(made.text.encode()) is None
    assert ring.holder(other.text.encode()).principal.name == "b"
    assert LOOK_EVERY_S <= 1


def test_keys_are_asked_for_from_the_first_one_on_and_for_ever(tmp_path):
    path, clock = tmp_path / "keys.json", Clock(100.0)
    ring = KeyRing(path, clock=clock)
    assert not ring.is_required()
    made = a_key(path)
    clock.now += LOOK_EVERY_S
    assert ring.is_required()
    assert ring.holder(made.text.encode()) is not None
    path.unlink()
    clock.now += LOOK_EVERY_S
    assert ring.is_required()
    assert ring.holder(made.text.encode()) is None


def test_a_file_that_cannot_be_read_ends_no_key_and_begins_none(tmp_path):
    path, clock, failures = tmp_path / "keys.json", Clock(100.0), []
    made = a_key(path)
    ring = KeyRing(path, clock=clock, failed=lambda: failures.append(1))
    assert ring.is_required()
    path.write_text("half of a fi")
    clock.now += LOOK_EVERY_S
    assert ring.is_required()
    assert ring.holder(made.text.encode()) is not None
    assert failures == [1]
    fresh = KeyRing(path, clock=clock)
    assert fresh.is_required()
    assert fresh.holder(made.text.encode()) is None


def test_without_a_file_a_service_that_must_have_keys_answers_nobody(tmp_path):
    ring = KeyRing(tmp_path / "none.json", required=True)
    assert ring.is_required()
    assert ring.holder(b"") is None


@given(st.binary(max_size=80) | st.integers(0, 70))
def test_no_other_text_is_a_key(tmp_path_factory, change):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    text = a_key(path).text.encode()
    ring = KeyRing(path)
    assert ring.is_required()
    if isinstance(change, int):  # one character of the right one
        place = change % len(text)
        change = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
    assert ring.holder(change) is None
    for near in (text + b"\0", text[:-1], text.upper(), b" " + text):
        assert ring.holder(near) is None


# --- where a service listens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *(
            (host, False)
            for host in ("0.0.0.0", "::", "", "*", "10.0.0.1", "fe80::1", "example.org", "127.0.0.1.nip.io")
        ),
    ],
)
def test_beyond_this_machine_a_service_listens_only_with_keys(tmp_path, host, loopback):
    path = tmp_path / "keys.json"
    assert is_loopback(host) == loopback
    for keys in (None, path):
        if loopback:
            assert check_access(host, keys) is False
        else:
            with pytest.raises(UsageError, match=r"serving.host requires .* no keys; got .*headrace keys add"):
                check_access(host, keys)
    a_key(path)
    assert check_access(host, path) is True
    revoked(path, "web")
    if loopback:
        assert check_access(host, path) is True
    else:
        with pytest.raises(UsageError):
            check_access(host, path)


# --- the commands -----------------------------------------------------------------------------------------------------

PROJECT = {
    "feature_repo/shop.py": (
        "from headrace import Count, Entity, FeatureSet, FeatureView, Stream\n"
        "user = Entity('user', keys={'user_id': 'string'})\n"
        "clicks = Stream('clicks', topic='clicks', fields={'user_id': 'string'})\n"
        "view = FeatureView('view', sets=[FeatureSet(user, clicks, [Count()], ['1h'])])\n"
    ),
    "settings.toml": "[serving]\nwritable_streams = []\n",
    "feature_repo/feature_store.yaml": (
        "project: corner_shop\nprovider: local\nregistry: r.db\n"
        "online_store: {type: headrace.feast.SqliteRowsOnlineStore, path: online.db}\n"
    ),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["keys", *arguments])


def test_a_key_is_added_listed_and_revoked(project):
    done = run("add", "web", "--scope", "read", "--scope", "events:clicks", "--rate", "5", "--expires", "90d", "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["scopes"], made["tenant"], made["rate"]) == (["read", "events:clicks"], "corner_shop", 5.0)
    assert made["expires_at"] - made["created_at"] == 90 * 86_400_000
    assert "serving.writable_streams" in done.stderr
    assert made["key"] not in done.stderr
    listed = json.loads(run("list", "--json").stdout)
    assert listed == [{name: value for name, value in made.items() if name != "key"}]
    for text in (run("list").stdout, (project / ".headrace" / "keys.json").read_text()):
        assert made["key"] not in text
    assert json.loads(run("revoke", "web", "--json").stdout)["revoked"] is True
    assert json.loads(run("list", "--json").stdout) == []


def test_a_key_alone_is_on_stdout(project):
    done = run("add", "ops", "--scope", "ops", "--tenant", "other")
    assert done.stdout.startswith("hr_")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["web", "--scope", "write"], "--scope requires read, ops, events:STREAM or events:*; got 'write'"),
        (["web", "--scope", "events"], "All streams: events:*."),
        (["web", "--scope", "events:orders"], "--scope events:STREAM requires one of clicks; got 'orders'"),
        (["a b", "--scope", "read"], "a key's name requires"),
        (["web", "--scope", "read", "--rate", "0"], "--rate requires 0.001 to 1,000,000 requests a second; got 0"),
        (["web", "--scope", "read", "--rate", "nan"], "--rate requires"),
        (["web", "--scope", "read", "--rate", "inf"], "--rate requires"),
        (["web", "--scope", "read", "--expires", "0d"], "--expires requires a time to come"),
        (["web", "--scope", "read", "--expires", "2001-01-01T00:00:00Z"], "--expires requires a time to come"),
        (["web", "--scope", "read", "--expires", "soon"], "RFC 3339"),
        (["web", "--scope", "read", "--tenant", ""], "--tenant"),
        (["web"], "--scope"),
    ],
)
def test_what_is_no_key_is_refused(project, arguments, message):
    done = run("add", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not (project / ".headrace" / "keys.json").exists()


@pytest.mark.parametrize("verb", [["serve", "--host", "0.0.0.0"], ["up"]])
def test_no_command_listens_beyond_this_machine_without_keys(project, monkeypatch, verb):
    monkeypatch.setenv("HEADRACE_SERVING__HOST", "0.0.0.0")
    done = CliRunner().invoke(cli.cli, verb)
    assert done.exit_code == 2, done.output
    assert "serving.host requires an address of this machine alone" in done.output
    assert "headrace keys add" in done.output


def test_the_file_of_keys_is_where_the_settings_say(project, monkeypatch):
    (project / "settings.toml").write_text('[serving]\nkeys = "elsewhere/k.json"\ntenant = "mine"\n')
    assert run("add", "web", "--scope", "read").exit_code == 0
    (key,) = read_keys(project / "elsewhere" / "k.json")
    assert key.tenant == "mine"
    assert key.created_at < FAR


def test_doctor_says_whether_the_service_may_listen_where_the_settings_say(tmp_path):
    path = tmp_path / "keys.json"
    assert (doctor.keys(path, "127.0.0.1").status, doctor.keys(path, "0.0.0.0").status) == ("ok", "failed")
    assert "headrace keys add" in doctor.keys(path, "0.0.0.0").mend
    a_key(path)
    assert doctor.keys(path, "0.0.0.0") == doctor.Finding("keys", "ok", f"1 in {path}")
    path.chmod(0o666)
    assert "chmod 600" in doctor.keys(path, "127.0.0.1").mend
    path.write_text("{")
    path.chmod(0o600)
    assert str(path) in doctor.keys(path, "127.0.0.1").mend
