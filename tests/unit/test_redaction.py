"""Secrets are hidden in texts: by the form of what they stand in, and by value once they are known."""

from __future__ import annotations

import io
import logging
import pickle
import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import StoreError
from features.redaction import is_secret_name, redacted, redacted_values, remember_secrets, written_secrets

PASSWORD = "Hush-4711-zyx"

TEXTS = (
    "registry https://name:{0}@mlflow.example/api/2.0 requires an answer",
    "https://{0}@host/x",
    "redis://:{0}@cache:6379/0",
    "postgresql+psycopg2://u:{0}@db/mlflow",
    "http://a:{0}@one:8081,http://a:{0}@two:8081",
    "{{'sasl.password': '{0}', 'linger.ms': 1}}",
    '{{"sasl.password":"{0}","a":1}}',
    "HEADRACE_KAFKA__CLIENT={{'sasl.password' = '{0}'}}",
    'ScramLoginModule required username="me" password="{0}";',
    "basic.auth.user.info=me:{0}",
    "'basic.auth.user.info': 'me:{0}'",
    "host=db password={0} dbname=fraud",
    "password: {0}",
    "GET /alerts?token={0}&x=1",
    "Authorization: Bearer {0}",
    "{{'authorization': 'Basic {0}'}}",
    "ssl.key.password={0}",
    "bearer.auth.client.secret = {0}",
    "-----BEGIN RSA PRIVATE KEY-----\n{0}\n-----END RSA PRIVATE KEY-----",
)

PLAIN = (
    "unexpected token: } at 5",
    "setting 'alerts.postgres_password' requires the variable HEADRACE_ALERTS__POSTGRES_PASSWORD; got a line in x",
    'FATAL: password authentication failed for user "me"',
    "online store /a/b.db requires a file; got none.",
    "see https://example.com/docs?page=2",
    "kafka://localhost:9092 is no address",
    "tokens: 12",
)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    """Other tests' secrets are not known, nor are those of these afterwards."""
    monkeypatch.setattr("features.redaction._remembered", ())


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_is_hidden_by_its_form_and_the_rest_stays(text):
    shown = redacted(text.format(PASSWORD))
    assert PASSWORD not in shown
    assert "…" in shown
    assert redacted(shown) == shown
    assert shown[:4] == text.format(PASSWORD)[:4] or text.startswith(("-----", "http"))


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_without_a_secret_stays_as_it_is(text):
    assert redacted(text) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=8), st.sampled_from(TEXTS[:5]))
def test_no_user_information_of_a_url_is_shown_whatever_is_in_it(password, text):
    assert password not in redacted(text.format(password)).replace("…", "")
    assert quote(password) not in redacted(text.format(quote(password)))


def test_an_error_has_no_secret_in_any_part_also_after_another_process_has_read_it():
    where = f"registry http://me:{PASSWORD}@host"
    error = StoreError(where, "an answer", f"sasl.password={PASSWORD}", f"Set token={PASSWORD}")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert PASSWORD not in f"{each} {each!r} {vars(each)}"
        assert each.where == "registry http://…@host"


SECRET_NAMES = """sasl.password ssl.key.password basic.auth.user.info bearer.auth.token sasl.jaas.config ssl.key.pem
webhook_token sslpassword bearer.auth.client.secret ssl.keystore.key PASSWORD aws_secret_access_key"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_options_that_hold_secrets_are_known_by_their_names(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["sasl.oauthbearer.token.endpoint.url", "basic.auth.credentials.source", "ssl.key.location", "partitions"]
)
def test_addresses_and_files_of_secrets_are_none(name):
    assert not is_secret_name(name)


def test_written_secrets_are_found_and_references_to_variables_are_not():
    tree = {
        "a": {"url": "redis://:${PW}@h", "mine": "redis://u:x@h:1/0", "tokens": 3, "password": "$X", "secret": "y"},
        "b": [{"token": "z"}],
        "plain": "http://h:80/@scope",
        "user": "postgresql://me@db/x",
        "conninfo": "host=db password=x",
    }
    assert list(written_secrets(tree)) == [("a", "mine"), ("a", "secret"), ("b", "token"), ("conninfo",)]


def test_a_secret_of_the_settings_is_hidden_wherever_it_stands():
    jaas = 'org.x.ScramLoginModule required username="me" password="jaas-5a6b7c8d";'
    remember_secrets({"client": {"sasl.password": "bare-1a2b3c4d"}, "uri": "https://me:uri%2D9z8y7x@host", "j": jaas})
    remember_secrets({"spark": {"sasl.jaas.config": jaas}, "basic.auth.user.info": "me:info-1q2w3e4r"})
    for secret in ("bare-1a2b3c4d", "uri%2D9z8y7x", "uri-9z8y7x", "jaas-5a6b7c8d", "info-1q2w3e4r"):
        assert redacted(f"the broker says {secret} is wrong") == "the broker says … is wrong"
    assert redacted("username required") == "username required"
    assert redacted_values({"a": ["bare-1a2b3c4d", 1, None]}) == {"a": ["…", 1, None]}


SCRIPT = f"""
import logging, sys, threading
from features.redaction import redact_output
redact_output(); redact_output()
logging.basicConfig()
log = logging.getLogger("other")
log.warning("at %s", "http://me:{PASSWORD}@host")
log.warning("wrong arguments %s %s http://me:{PASSWORD}@host", 1)
def fail(): raise ValueError("http://me:{PASSWORD}@host")
try: fail()
except ValueError: log.exception("failed")
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""


def test_logs_and_tracebacks_of_a_process_have_no_secret():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "line" in done.stderr  # the traceback is there
    assert done.stderr.count("ValueError: http://…@host") == 3
    assert "at http://…@host" in done.stderr
    # The source line that a traceback quotes is the program's own text.
    assert PASSWORD not in done.stdout + "\n".join(line for line in done.stderr.splitlines() if "raise" not in line)


def test_a_record_keeps_its_message_and_level():
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    record = logging.getLogRecordFactory()("a", logging.INFO, __file__, 1, "n=%d", (3,), None)
    handler.emit(record)
    assert shown.getvalue() == "n=3\n"
