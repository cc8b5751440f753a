"""Secrets of a deployment: where they may stand, where they are refused, and that no message shows them."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis_server import RedisServer, running

from features.errors import StoreError, UsageError
from features.online_store.settings import PASSWORD, read_settings_of
from headrace.cli import cli
from headrace.settings import Settings, read_settings

SECRET = "Hush-4711-zyx"

TRACKED = {
    '[kafka.client]\n"sasl.password" = "{0}"': "HEADRACE_KAFKA__CLIENT",
    '[kafka.client]\n"ssl.key.pem" = "{0}"': "HEADRACE_KAFKA__CLIENT",
    '[kafka.spark]\n"sasl.jaas.config" = \'x required password="{0}";\'': "HEADRACE_KAFKA__SPARK",
    '[kafka]\nschema_registry = "https://me:{0}@registry.example"': "HEADRACE_KAFKA__SCHEMA_REGISTRY",
    '[kafka.registry]\n"basic.auth.user.info" = "me:{0}"': "HEADRACE_KAFKA__REGISTRY",
    '[mlflow]\ntracking_uri = "https://me:{0}@mlflow.example"': "HEADRACE_MLFLOW__TRACKING_URI",
    '[mlflow]\ntracking_uri = "postgresql://me:{0}@db/mlflow"': "HEADRACE_MLFLOW__TRACKING_URI",
    '[redis]\npassword = "{0}"': "HEADRACE_REDIS__PASSWORD",
    '[alerts]\nwebhook_token = "{0}"': "HEADRACE_ALERTS__WEBHOOK_TOKEN",
    '[alerts]\nwebhook = "https://hooks.example/x?token={0}"': "HEADRACE_ALERTS__WEBHOOK",
    '[alerts]\npostgres = "host=db password={0}"': "HEADRACE_ALERTS__POSTGRES",
}


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    """No secret is known by its value from a test before."""
    monkeypatch.setattr("features.redaction._remembered", ())


@pytest.mark.parametrize(("line", "variable"), TRACKED.items())
def test_the_tracked_file_has_no_secret_and_the_error_says_where_it_goes(tmp_path, line, variable):
    (tmp_path / "settings.toml").write_text(line.format(SECRET), encoding="utf-8")
    with pytest.raises(UsageError, match=f"the variable {variable}") as error:
        read_settings(tmp_path, {})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("line", [line for line in TRACKED if not line.startswith(("[alerts", "[redis"))])
def test_the_file_that_is_not_tracked_may_have_one(tmp_path, line):
    (tmp_path / "settings.local.toml").write_text(line.format(SECRET), encoding="utf-8")
    assert SECRET in str(read_settings(tmp_path, {}).model_dump())


def variables() -> list[str]:
    """A variable of every setting, and mistyped ones."""
    names = []
    for section, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {})
        names += [f"HEADRACE_{section}__{key}".upper() for key in inner] or [f"HEADRACE_{section}".upper()]
    return [*names, "HEADRACE_KAFKA", "HEADRACE_REDIS", "HEADRACE_REDIS__PASWORD", "HEADRACE_KAFKA__CLIENT__PASSWORD"]


@pytest.mark.parametrize("variable", variables())
@pytest.mark.parametrize("text", [SECRET, f'{{"sasl.password": "{SECRET}"}}', f'{{x = "{SECRET}"}}', f"[{SECRET}]"])
def test_no_message_about_a_variable_or_a_secret_file_shows_its_value(tmp_path, variable, text):
    (tmp_path / variable).write_text(text, encoding="utf-8")
    for environ in ({variable: text}, {"HEADRACE_SECRETS_DIR": str(tmp_path)}):
        said = f"{variable} is accepted"
        try:
            read_settings(tmp_path, environ)
        except UsageError as error:
            said = str(error)
        assert variable in said
        assert SECRET not in said


def test_a_table_in_the_wrong_notation_is_told_the_right_one():
    with pytest.raises(UsageError, match=r"got a text of 30 characters\. A table is written as TOML"):
        read_settings(Path("nowhere"), {"HEADRACE_KAFKA__CLIENT": '{"sasl.password": "sesamesee"}'})


STORE = "project: shop\nonline_store:\n  type: headrace.feast.RedisRowsOnlineStore\n  url: {0}\n"


@pytest.mark.parametrize("url", [f"redis://:{SECRET}@127.0.0.1:1/0", f"redis://me:{SECRET}@cache/0"])
def test_feature_store_yaml_has_no_password(tmp_path, url):
    path = tmp_path / "feature_store.yaml"
    path.write_text(STORE.format(url), encoding="utf-8")
    with pytest.raises(UsageError, match=r"online_store\.url.*HEADRACE_REDIS__PASSWORD") as error:
        read_settings_of(path)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{0}/0", "redis://:${{CACHE_PASSWORD}}@127.0.0.1:{0}/0"])
def test_a_redis_with_a_password_is_opened_by_us_and_by_feast(tmp_path, monkeypatch, url):
    """By the variable, by its secret file, and by a variable of one's own in the address."""
    from feast.repo_config import load_repo_config

    from features.feast.online_store import _settings

    with running(RedisServer(tmp_path / "redis", ("--save", "", "--requirepass", SECRET), password=SECRET)) as server:
        path = tmp_path / "feature_store.yaml"
        path.write_text(f"registry: r.db\nprovider: local\n{STORE.format(url.format(server.port))}", encoding="utf-8")
        with closing(read_settings_of(path).open()) as store, pytest.raises(StoreError):
            store.eviction()
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / PASSWORD.lower()).write_text(f"{SECRET}\n", encoding="utf-8")
        own = {"CACHE_PASSWORD": SECRET} if "CACHE" in url else {PASSWORD: SECRET}
        files = {"HEADRACE_SECRETS_DIR": str(tmp_path / "secrets")} if "CACHE" not in url else own
        for environ in (own, files):
            with monkeypatch.context() as patch:
                for name, value in environ.items():
                    patch.setenv(name, value)
                config = load_repo_config(tmp_path, path)
                config.repo_path = tmp_path
                for settings in (read_settings_of(path), _settings(config)):
                    with closing(settings.open()) as store:
                        assert store.eviction() in (None, "")
                    if "CACHE" not in url:
                        assert SECRET not in repr(settings)


def test_commands_show_no_secret_of_any_setting(tmp_path, monkeypatch):
    """With every part away that a secret is for: what doctor, models and status write has none."""
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "feature_store.yaml").write_text(STORE.format("redis://127.0.0.1:1/0"))
    planted = {
        "HEADRACE_REDIS__PASSWORD": SECRET,
        "HEADRACE_MLFLOW__TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:1",
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "HEADRACE_KAFKA__CLIENT": f'{{"sasl.password" = "{SECRET}", "sasl.mechanism" = "PLAIN", "bad.option" = 1}}',
        "HEADRACE_KAFKA__SCHEMA_REGISTRY": f"http://me:{SECRET}@127.0.0.1:1",
        "HEADRACE_KAFKA__REGISTRY": f'{{"basic.auth.user.info" = "me:{SECRET}"}}',
        "HEADRACE_ALERTS__WEBHOOK_TOKEN": SECRET,
        "HEADRACE_ALERTS__POSTGRES_PASSWORD": SECRET,
    }
    for name, value in (planted | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for words in (["doctor"], ["doctor", "--json"], ["status"], ["models", "list"], ["deadletters", "list"]):
        done = CliRunner().invoke(cli, words)
        assert SECRET not in done.output + repr(done.exception), words
    written = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []
    assert os.environ["HEADRACE_REDIS__PASSWORD"] == SECRET
