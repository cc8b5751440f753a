"""Finds Java, and the jars of Kafka and of Spark's connectors, or fetches them by the Ivy that pyspark ships.

A folder of jars is complete when it has every file of its list, which is written last; what is complete is never
fetched again. Only the standard library is imported, as the set-up runs this before anything else works.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from features.errors import HeadraceError

LIST = "jars.txt"

INSTALL_JAVA = "Install one: sudo apt-get install openjdk-17-jre-headless (or name one by JAVA_HOME)."

TIMEOUT_S = 900


class JarsError(HeadraceError):
    """Raised where Java or a jar is missing, or cannot be fetched."""


@dataclass(frozen=True)
class JarSet:
    """Artefacts "organisation:module:version" whose jars, with what they need, stand in a folder."""

    name: str
    artefacts: tuple[str, ...]

    def folder(self, home: Path) -> Path:
        """The folder of the set's jars below a project's home."""
        return home.absolute() / "jars" / self.name

    @property
    def contents(self) -> str:
        """The first line of the folder's list: another version is another set."""
        return " ".join(self.artefacts)


KAFKA = JarSet(
    "kafka",
    # Kafka's own artefacts come without what joins its logging to log4j: it would say nothing when it fails.
    ("org.apache.kafka:kafka_2.13:4.2.0", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3"),
)

SPARK = JarSet("spark", ("org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",))


def resolve_kafka(home: Path) -> Path:
    """The folder with the jars of a whole broker, fetched where they are not there yet.

    Args:
        home: the project's home, such as ``.headrace``.

    Raises:
        JarsError: there is no Java, or the jars cannot be fetched.
    """
    return _resolve(KAFKA, home)


def resolve_spark(home: Path) -> list[Path]:
    """The jars that Spark needs for Kafka beyond its own, fetched where they are not there yet.

    Raises:
        JarsError: there is no Java, or the jars cannot be fetched.
    """
    return jars_in(_resolve(SPARK, home))


def kafka_jars(home: Path) -> Path:
    """The folder with the jars of a broker; never fetches.

    Raises:
        JarsError: a jar is missing.
    """
    return _present(KAFKA, home)


def spark_jars(home: Path) -> list[Path]:
    """The jars that Spark needs beyond its own; never fetches.

    Raises:
        JarsError: a jar is missing.
    """
    return jars_in(_present(SPARK, home))


def jars_in(folder: Path) -> list[Path]:
    """The jars of a folder, in the order of their names."""
    return sorted(folder.glob("*.jar"))


def missing_jars(jars: JarSet, home: Path) -> list[str]:
    """The names of the set's missing files; its list itself where that is missing or of another version."""
    folder = jars.folder(home)
    return _missing_in(folder, jars.contents)


def check_folder(folder: Path) -> None:
    """Returns when the folder has every jar of its list.

    Raises:
        JarsError: one is missing.
    """
    if missing := _missing_in(folder, None):
        raise JarsError(f"the jars in {folder}", "each jar of their list", _no(missing), "Fetch them: make setup")


def java_command(environment: Mapping[str, str]) -> str | None:
    """The java that Spark would start: JAVA_HOME's, else the PATH's."""
    if home := environment.get("JAVA_HOME"):
        return shutil.which("java", path=str(Path(home) / "bin"))
    return shutil.which("java", path=environment.get("PATH"))


def find_java(environment: Mapping[str, str] | None = None) -> str:
    """The path of the java to use.

    Raises:
        JarsError: there is none.
    """
    environment = os.environ if environment is None else environment
    command = java_command(environment)
    if command is None:
        home = environment.get("JAVA_HOME")
        got = f"none below JAVA_HOME={home}" if home else "none on the PATH"
        raise JarsError("Headrace", "Java 17 or 21", got, INSTALL_JAVA)
    return command


def _missing_in(folder: Path, contents: str | None) -> list[str]:
    try:
        first, *names = (folder / LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return [LIST]
    if contents not in (None, first):
        return [LIST]
    return [name for name in names if not (folder / name).is_file()]


def _no(missing: Sequence[str]) -> str:
    more = f" nor {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"no {missing[0]}{more}"


def _present(jars: JarSet, home: Path) -> Path:
    if missing := missing_jars(jars, home):
        where = f"the {jars.name.title()} jars in {jars.folder(home)}"
        raise JarsError(where, "each jar of their list", _no(missing), "Fetch them: make setup")
    return jars.folder(home)


def _resolve(jars: JarSet, home: Path) -> Path:
    folder = jars.folder(home)
    if missing_jars(jars, home):
        java = find_java()
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"setup: fetching the jars of {jars.name.title()}", file=sys.stderr, flush=True)  # noqa: T201
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{jars.name}-") as fetched:
            _fetch(jars, java, Path(fetched))
            _put(Path(fetched), folder)
    return folder


def _put(fetched: Path, folder: Path) -> None:
    """Replace the folder's files. Its list is deleted first and written last: so half a folder is never complete."""
    folder.mkdir(exist_ok=True)
    (folder / LIST).unlink(missing_ok=True)
    for old in jars_in(folder):
        old.unlink()
    for jar in jars_in(fetched):
        jar.rename(folder / jar.name)
    (fetched / LIST).rename(folder / LIST)


def _fetch(jars: JarSet, java: str, folder: Path) -> None:
    """The folder holds the set's jars and their list, but for those that pyspark brings with Spark itself."""
    _run_ivy(jars, java, folder)
    if jars is SPARK:
        shipped = {_artefact(jar) for jar in _shipped_with_pyspark()}
        for twin in [jar for jar in jars_in(folder) if _artefact(jar) in shipped]:
            twin.unlink()
    names = [jar.name for jar in jars_in(folder)]
    (folder / LIST).write_text("\n".join([jars.contents, *names]) + "\n", encoding="utf-8")


def _artefact(jar: Path) -> str:
    """A jar's name without its version: of two versions, Spark's own wins."""
    return re.sub(r"-\d.*$", "", jar.stem)


def _shipped_with_pyspark() -> list[Path]:
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise JarsError("the set-up", "pyspark, whose Ivy fetches the jars", "none", "Install the packages: make setup")
    return jars_in(Path(spec.origin).parent / "jars")


def _run_ivy(jars: JarSet, java: str, folder: Path) -> None:
    ivy = next(jar for jar in _shipped_with_pyspark() if jar.name.startswith("ivy-"))
    request = folder / "ivy.xml"
    request.write_text(_ivy_file(jars), encoding="utf-8")
    command = [java, *_proxies(os.environ), "-jar", str(ivy), "-ivy", str(request), "-confs", "default"]
    command += ["-retrieve", str(folder / "[artifact]-[revision].[ext]")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder)
    request.unlink()
    if done.returncode or not jars_in(folder):
        where = f"the set-up of {jars.contents}"
        raise JarsError(
            where, "its jars", _ivy_error(done.stdout + done.stderr), "Is there a network? Then: make setup"
        )


def _ivy_file(jars: JarSet) -> str:
    """Ivy's request for all artefacts of a set at once, so that a single version of each is resolved."""
    lines = [
        '<dependency org="{}" name="{}" rev="{}" conf="default->default"/>'.format(*artefact.split(":"))
        for artefact in jars.artefacts
    ]
    dependencies = f"<dependencies>{''.join(lines)}</dependencies>"
    info = (
        f'<info organisation="headrace" module="{jars.name}"/><configurations><conf name="default"/></configurations>'
    )
    return f'<ivy-module version="2.0">{info}{dependencies}</ivy-module>'


def _ivy_error(output: str) -> str:
    """The line of Ivy's output that has the cause."""
    lines = [line.strip(" \t:") for line in output.splitlines() if line.strip(" \t:")]
    causes = [line for line in lines if "Exception" in line or "not found" in line or "Server access" in line]
    return (causes or lines or ["nothing"])[-1 if not causes else 0].rstrip(".")


def _proxies(environment: Mapping[str, str]) -> list[str]:
    """Java's options for the proxies of the environment, whose variables it does not read itself."""
    options = []
    for scheme in ("http", "https"):
        address = urlsplit(environment.get(f"{scheme}_proxy") or environment.get(f"{scheme}_proxy".upper()) or "")
        if address.hostname:
            options += [f"-D{scheme}.proxyHost={address.hostname}", f"-D{scheme}.proxyPort={address.port or 3128}"]
    return options


def main(arguments: Sequence[str]) -> int:
    """[--check] HOME: 0 when both sets of jars are in the home. Fetches what is missing, unless it is to check only."""
    home, is_check = Path(arguments[-1]), "--check" in arguments
    if is_check:
        return 1 if missing_jars(KAFKA, home) or missing_jars(SPARK, home) else 0
    try:
        resolve_kafka(home)
        resolve_spark(home)
    except JarsError as error:
        print(f"setup: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
