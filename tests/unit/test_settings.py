"""Settings: three places over each other, and a wrong one is named with what is meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from features.errors import UsageError
from headrace.settings import Settings, read_settings

ROOT = Path(__file__).resolve().parent.parent.parent


def written(folder: Path, text: str, name: str = "settings.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_without_any_file_everything_has_a_default(tmp_path):
    settings = read_settings(tmp_path, {})
    assert settings == Settings()
    assert settings.kafka.bootstrap_servers == ""
    assert settings.broker.port == 0


def test_a_file_is_under_the_local_file_and_both_are_under_the_environment(tmp_path):
    written(tmp_path, "[broker]\nport = 1\nheap_mb = 200\n[stream]\ntrigger_ms = 7")
    written(tmp_path, "[broker]\nport = 2\nheap_mb = 300", "settings.local.toml")
    settings = read_settings(tmp_path, {"HEADRACE_BROKER__PORT": "3"})
    assert (settings.broker.port, settings.broker.heap_mb, settings.stream.trigger_ms) == (3, 300, 7)


def test_a_variable_is_read_as_toml_where_it_is_toml_and_as_text_where_not(tmp_path):
    environ = {"HEADRACE_HOME": "elsewhere", "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "a.example:9092,b.example:9092"}
    environ |= {"HEADRACE_SERVING__DEADLINE_MS": "12.5", "HEADRACE_KAFKA__CLIENT": '{"sasl.password" = "secret"}'}
    settings = read_settings(tmp_path, environ)
    assert settings.home == "elsewhere"
    assert settings.kafka.bootstrap_servers == "a.example:9092,b.example:9092"
    assert settings.serving.deadline_ms == 12.5
    assert settings.kafka.client == {"sasl.password": "secret"}


def test_options_of_the_file_and_of_the_environment_are_one_set(tmp_path):
    written(tmp_path, '[kafka.client]\n"sasl.username" = "me"\n"linger.ms" = 1')
    settings = read_settings(tmp_path, {"HEADRACE_KAFKA__CLIENT": '{"sasl.password" = "secret", "linger.ms" = 2}'})
    assert settings.kafka.client == {"sasl.username": "me", "sasl.password": "secret", "linger.ms": 2}


def test_a_variable_of_no_section_is_somebody_elses(tmp_path):
    assert read_settings(tmp_path, {"HEADRACE_DATA": "/data", "HEADRACE_SEED": "7", "PATH": ""}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[broker]\nprot = 1", "setting 'broker.prot' in .*settings.toml requires a name of port, heap_mb; got 'prot'"),
        ("[brokers]\nport = 1", "Did you mean 'broker'"),
        ("[broker]\nport = 70_000", "setting 'broker.port' in .* requires less than or equal to 65535; got 70000"),
        ("[broker]\nport = 'x'", "setting 'broker.port' in .* requires integer.*; got 'x'"),
        ("broker = 3", "setting 'broker' in .*; got 3"),
        ("[broker", "settings in .*settings.toml requires a TOML file; got "),
    ],
)
def test_a_wrong_setting_is_named_with_its_file_and_what_is_meant(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_settings(written(tmp_path, text), {})


def test_a_wrong_variable_is_named():
    with pytest.raises(UsageError, match=r"in the variable HEADRACE_STREAM__TRIGER_MS .* Did you mean 'trigger_ms'"):
        read_settings(Path("nowhere"), {"HEADRACE_STREAM__TRIGER_MS": "5"})


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().broker.port = 3  # type: ignore[misc]


def test_the_file_that_comes_with_the_project_says_the_defaults(tmp_path):
    """Every commented setting in it is one that exists, with the value that it has without it."""
    shipped = (ROOT / "settings.toml").read_text(encoding="utf-8")
    assert read_settings(ROOT, {}) == Settings() or (ROOT / "settings.local.toml").exists()
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and "sasl" not in line and "HEADRACE" not in line else line
        for line in shipped.splitlines()
        if not line.startswith(("# bootstrap_servers", "# schema_registry", '# "', "# settings.local"))
    )
    assert set(tomllib.loads(uncommented)) == set(Settings.model_fields)
    assert read_settings(written(tmp_path, uncommented), {}) == Settings()


def test_secret_files_are_over_the_files_of_settings_and_below_the_environment(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (tmp_path / "settings.toml").write_text('[mlflow]\ntracking_uri = "sqlite:///a.db"\n[broker]\nport = 1\n')
    (secrets / "HEADRACE_MLFLOW__TRACKING_URI").write_text("https://name:word@mlflow.example\n")
    (secrets / "headrace_alerts__postgres_password").write_text("123\n")
    (secrets / "HEADRACE_BROKER__PORT").write_text("2")
    (secrets / "keystore.p12").write_bytes(b"\xff\xfe not ours, and no text")
    environ = {"HEADRACE_SECRETS_DIR": str(secrets), "HEADRACE_BROKER__PORT": "3"}
    settings = read_settings(tmp_path, environ)
    assert settings.mlflow.tracking_uri == "https://name:word@mlflow.example"
    assert settings.alerts.postgres_password.get_secret_value() == "123"
    assert settings.broker.port == 3


def test_a_folder_of_secrets_that_is_not_there_and_a_wrong_name_in_one_are_errors(tmp_path):
    with pytest.raises(UsageError, match="HEADRACE_SECRETS_DIR requires a folder of text files"):
        read_settings(tmp_path, {"HEADRACE_SECRETS_DIR": str(tmp_path / "nowhere")})
    (tmp_path / "HEADRACE_ALERTS__POSTGRES_PASWORD").write_text("sesame")
    with pytest.raises(UsageError, match="the secret file HEADRACE_ALERTS__POSTGRES_PASWORD") as error:
        read_settings(tmp_path, {"HEADRACE_SECRETS_DIR": str(tmp_path)})
    assert "Did you mean 'postgres_password'?" in str(error.value)
    assert "sesame" not in str(error.value)
