"""Jars: a folder is whole or it is not, and is fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.commands import doctor
from headrace.settings import Settings
from streaming import jars
from streaming.jars import KAFKA, SPARK, JarsError, kafka_jars, missing_jars, resolve_kafka, spark_jars


def made(home: Path, of: jars.JarSet, *names: str, contents: str | None = None) -> Path:
    folder = of.folder(home)
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    (folder / jars.LIST).write_text("\n".join([contents or of.contents, *names]) + "\n")
    return folder


def test_a_whole_folder_is_not_fetched_again(tmp_path, monkeypatch):
    folder = made(tmp_path, KAFKA, "a-1.jar", "b-2.jar")
    monkeypatch.setenv("PATH", "")  # where there is no java, fetching would fail
    assert resolve_kafka(tmp_path) == kafka_jars(tmp_path) == folder
    made(tmp_path, SPARK, "c-1.jar")
    assert [jar.name for jar in spark_jars(tmp_path)] == ["c-1.jar"]
    assert jars.main(["--check", str(tmp_path)]) == 0


def test_a_folder_that_lacks_a_jar_its_list_or_the_version_is_not_whole(tmp_path):
    assert missing_jars(KAFKA, tmp_path) == ["jars.txt"]
    folder = made(tmp_path, KAFKA, "a-1.jar", "b-2.jar")
    (folder / "b-2.jar").unlink()
    assert missing_jars(KAFKA, tmp_path) == ["b-2.jar"]
    made(tmp_path, SPARK, "c-1.jar", contents="org.example:another:1.0")
    assert missing_jars(SPARK, tmp_path) == ["jars.txt"]
    assert jars.main(["--check", str(tmp_path)]) == 1
    with pytest.raises(JarsError, match=r"the Kafka jars in .* got no b-2.jar. Fetch them: make setup"):
        kafka_jars(tmp_path)


def test_fetching_without_java_says_what_to_install_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert jars.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("setup: Headrace requires Java 17 or 21; got none on the PATH.")
    assert list(tmp_path.iterdir()) == []


def test_java_is_told_of_the_proxies_that_the_shell_knows():
    options = jars._proxies({"https_proxy": "http://proxy.example:8080", "HTTP_PROXY": "http://other.example"})
    assert "-Dhttps.proxyHost=proxy.example" in options
    assert "-Dhttps.proxyPort=8080" in options
    assert "-Dhttp.proxyHost=other.example" in options
    assert jars._proxies({}) == []


def test_one_version_of_an_artefact_is_known_by_its_name():
    names = {"kafka_2.13-4.2.0.jar": "kafka_2.13", "jackson-datatype-jdk8-2.13.5.jar": "jackson-datatype-jdk8"}
    assert {name: jars._artefact(Path(name)) for name in names} == names


def test_doctor_names_a_jar_that_is_missing_and_is_content_with_all(tmp_path):
    assert doctor.jars(tmp_path).status == "warning"
    for one in (KAFKA, SPARK):
        made(tmp_path, one, "a-1.jar")
    assert doctor.jars(tmp_path).status == "ok"
    (SPARK.folder(tmp_path) / "a-1.jar").unlink()
    finding = doctor.jars(tmp_path)
    assert (finding.found, finding.mend) == ("no spark/a-1.jar; the stream will need them", "make setup")


def test_doctor_reads_the_settings_and_says_what_is_wrong_in_them(tmp_path):
    by_name = {one.check: one for one in doctor.by_settings(tmp_path, {})}
    assert by_name["settings"].status == by_name["broker"].status == "ok"
    assert f"port {Settings().serving.port}" in by_name
    (tmp_path / "settings.toml").write_text("[brokr]\nport = 1\n")
    (finding,) = doctor.by_settings(tmp_path, {})
    assert finding.status == "failed"
    assert finding.mend == "Did you mean 'broker'?"


def test_doctor_looks_for_no_broker_of_ours_where_a_cluster_is_named(tmp_path):
    environment = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "kafka.example:9092"}
    checks = [one.check for one in doctor.by_settings(tmp_path, environment)]
    assert "broker" not in checks
