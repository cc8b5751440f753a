"""`headrace doctor`: checks of this machine, each problem with the command that mends it.

Only the standard library and click, because a broken environment is what it is for.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from features.errors import HeadraceError
from headrace.console import print_report
from streaming.jars import KAFKA, SPARK, java_command, missing_jars
from streaming.kafka import is_free, running_broker

if TYPE_CHECKING:
    from features.online_store import StoreSettings
    from headrace.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

LOCK = ROOT / "requirements.lock"

PACKAGES = ("headrace", "features", "models", "streaming", "serving", "training")

PYTHON = (3, 11)

JAVA = (17, 21)

DISK_GB = 5.0

MEMORY_GB = 4.0

TOPICS_WITHIN_S = 5.0

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: a warning is about a later need, a failure about a present one."""

    check: str
    status: Literal["ok", "warning", "failed"]
    found: str
    mend: str = ""


def python_version(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    """Ok from 3.11 on."""
    found = ".".join(map(str, version))
    if tuple(version[:2]) >= PYTHON:
        return Finding("python", "ok", found)
    return Finding("python", "failed", found, "PYTHON=python3.11 make setup")


def locked(text: str) -> dict[str, str]:
    """The distributions and versions that a requirements.lock pins."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE))


def installed_version(name: str) -> str | None:
    """The version of a distribution in this environment, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(pins: Mapping[str, str], version_of: Callable[[str], str | None] = installed_version) -> Finding:
    """Ok when every pinned distribution is installed in just its pinned version."""
    found = {name: version_of(name) for name in pins}
    wrong = [f"{name} {found[name] or 'missing'} (not {pin})" for name, pin in pins.items() if found[name] != pin]
    if not wrong:
        return Finding("packages", "ok", f"{len(pins)} as in requirements.lock")
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""  # noqa: PLR2004  (as many as fit a line)
    return Finding("packages", "failed", ", ".join(wrong[:3]) + more, "rm -rf .venv && make setup")


def import_names(owners: Mapping[str, Sequence[str]]) -> Finding:
    """Ok when no other distribution installs a package under one of our import names (mosaicml-streaming would)."""
    others = sorted({owner for name in PACKAGES for owner in owners.get(name, ())} - {"headrace"})
    missing = [name for name in PACKAGES if "headrace" not in owners.get(name, ())]
    if others:
        found = f"{', '.join(others)} installs a package that is called like one of ours"
        return Finding("import names", "failed", found, f"{sys.executable} -m pip uninstall {' '.join(others)}")
    if missing:
        return Finding("import names", "failed", f"headrace is not installed ({', '.join(missing)})", "make setup")
    return Finding("import names", "ok", ", ".join(PACKAGES))


def spec_on_path(name: str) -> ModuleSpec | None:
    """The module spec that an import would find, also where another module of that name is imported already."""
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def import_paths(root: Path, spec_of: Callable[[str], ModuleSpec | None] = spec_on_path) -> Finding:
    """Ok when imports find our packages, and no folder of the project in ``root`` has the name of one.

    Such a folder is a warning: Headrace's commands pass over it, but a Python that starts there imports it.
    """
    for name in PACKAGES:
        spec = spec_of(name)
        folders = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else ["nowhere"]
        if folders != [str(ROOT / name)]:
            mend = "take its folder off PYTHONPATH, or uninstall it"
            return Finding("import paths", "failed", f"'{name}' is {folders[0]}, and not Headrace's", mend)
    same = [name for name in PACKAGES if (root / name).is_dir() or (root / f"{name}.py").is_file()]
    if root.resolve() != ROOT and same:
        found = f"{', '.join(same)} in this folder: passed over by headrace, imported by a Python that starts here"
        return Finding("import paths", "warning", found, "export PYTHONSAFEPATH=1 (or start python -P)")
    return Finding("import paths", "ok", f"ours, in {ROOT}")


def java_modules(command: str | None) -> str:
    """The output of `java --list-modules`; empty where there is no java, or one without the option."""
    if command is None:
        return ""
    try:
        return subprocess.run(
            [command, "--list-modules"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def java(modules: str) -> Finding:
    """Ok with a whole Java 17 or 21: Spark asks for jdk.incubator.vector, which trimmed ones leave out."""
    mend = "apt-get install openjdk-17-jre-headless (or a JRE 17 or 21 from elsewhere, named by JAVA_HOME)"
    version = re.search(r"^java\.base@((\d+)\S*)", modules, flags=re.MULTILINE)
    if not version:
        return Finding("java", "warning", "none; the stream will need 17 or 21", mend)
    if int(version[2]) not in JAVA:
        return Finding("java", "warning", f"{version[1]}; the stream will need 17 or 21", mend)
    if "jdk.incubator.vector" not in modules:
        return Finding("java", "warning", f"{version[1]} without jdk.incubator.vector", mend)
    return Finding("java", "ok", version[1])


def port(number: int, purpose: str) -> Finding:
    """Ok when the port is free on loopback; taken is a warning."""
    if is_free(number):
        return Finding(f"port {number}", "ok", f"free for {purpose}")
    return Finding(f"port {number}", "warning", f"taken; {purpose} will need it", f"ss -ltnp 'sport = :{number}'")


def jars(home: Path) -> Finding:
    """Ok with each jar of the broker and of Spark's connectors."""
    missing = [f"{jars.name}/{name}" for jars in (KAFKA, SPARK) for name in missing_jars(jars, home)]
    if not missing:
        return Finding("jars", "ok", f"Kafka's and Spark's in {home / 'jars'}")
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return Finding("jars", "warning", f"no {missing[0]}{more}; the stream will need them", "make setup")


def broker(home: Path, number: int) -> Finding:
    """Ok while our broker runs or its port is free; port 0 is any free one."""
    if running := running_broker(home):
        return Finding("broker", "ok", f"runs at {running}")
    return port(number, "the Kafka broker") if number else Finding("broker", "ok", "will take a free port")


def online_store(store: StoreSettings) -> Finding:
    """Ok with a store that keeps what is written to it; a Redis that drops rows to make room is a failure."""
    mend = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
    try:
        policy = store.open().eviction()
    except HeadraceError as error:
        return Finding("online store", "warning", f"{store.kind}: {error}", "start it before the stream")
    if policy is None:
        return Finding("online store", "ok", f"{store.kind}, project {store.project}")
    if not policy:
        found = "redis: CONFIG GET is forbidden, so that nobody can tell whether it evicts rows"
        return Finding("online store", "warning", found, "ask who runs it for maxmemory-policy noeviction")
    if policy.startswith("allkeys"):
        return Finding("online store", "failed", f"redis: it evicts rows (maxmemory-policy {policy})", mend)
    found = f"redis: it may evict pending events and sessions (maxmemory-policy {policy})"
    return Finding("online store", "warning", found, mend)


def stores(repo: Path, home: Path) -> Iterator[Finding]:
    """The finding about the online store that the repo names."""
    try:
        from features.online_store import store_of

        yield online_store(store_of(repo, home))
    except ImportError as error:
        yield Finding("online store", "failed", str(error), "make setup")
    except HeadraceError as error:
        yield Finding("online store", "failed", str(error), error.next_step or "edit feature_store.yaml")


def lost_records(offline: Path) -> Finding:
    """Failed while records are lost that nobody has accepted; a warning where some were."""
    from streaming.losses import ACCEPT, read_losses

    losses = read_losses(offline)
    if losses["open"]:
        return Finding("lost records", "failed", f"{_ranges(losses['open'])} wait to be accepted", ACCEPT)
    if losses["accepted"]:
        found = f"{_ranges(losses['accepted'])} lost and accepted"
        return Finding("lost records", "warning", found, "headrace status (says which)")
    return Finding("lost records", "ok", "none")


def topics(root: Path, settings: Settings, servers: str) -> Iterator[Finding]:
    """A warning for each topic of the definitions whose records their producers' clocks stamp; ok without any."""
    try:
        from features.definitions import load_repo
        from streaming.kafka import TopicReader, clock_warnings

        streams = load_repo(root / settings.stream.repo).streams.values()
        names = list(dict.fromkeys(topic for stream in streams for topic in stream.topics))
        facts = TopicReader(servers, settings.kafka.client, TOPICS_WITHIN_S).facts(names)
    except ImportError as error:
        yield Finding("topics", "failed", str(error), "make setup")
    except HeadraceError as error:
        yield Finding("topics", "warning", str(error), error.next_step or "start Kafka before the stream")
    else:
        warnings = clock_warnings(facts, servers)
        yield from (Finding("topics", "warning", warning["found"], warning["mend"]) for warning in warnings)
        if not warnings:
            yield Finding("topics", "ok", f"{len(facts)} of {len(names)} there, stamped by the broker")


def _ranges(gaps: Sequence[Mapping[str, Any]]) -> str:
    """The number of gaps, and of the offsets in those whose size is known."""
    return f"{len(gaps):,} range{'s' * (len(gaps) > 1)} of {sum(gap['count'] or 0 for gap in gaps):,} offsets or more"


def keys(path: Path, host: str) -> Finding:
    """Ok where the service may listen on the host: beyond this machine with a key."""
    try:
        from serving.access import check_access, read_keys

        asks = check_access(host, path)
        count = len(read_keys(path) or ())
    except ImportError as error:
        return Finding("keys", "failed", str(error), "make setup")
    except HeadraceError as error:
        return Finding("keys", "failed", str(error), error.next_step or f"mend or delete {path}")
    return Finding("keys", "ok", f"{count} in {path}" if asks else f"none; the service listens on {host}")


def by_settings(root: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Findings about the settings and what they need of this machine; only the first where they cannot be read."""
    try:
        from headrace.project import Project
        from headrace.settings import read_settings

        settings = read_settings(root, environment)
    except ImportError as error:
        yield Finding("settings", "failed", str(error), "make setup")
        return
    except HeadraceError as error:
        yield Finding("settings", "failed", str(error), error.next_step or "edit it there")
        return
    yield Finding("settings", "ok", f"home {settings.home}, Kafka {settings.kafka.bootstrap_servers or 'of our own'}")
    home = root / settings.home
    yield from stores(root / settings.stream.repo, home)
    yield jars(home)
    yield lost_records(root / settings.offline.path)
    if not settings.kafka.bootstrap_servers:
        yield broker(home, settings.broker.port)
    if servers := settings.kafka.bootstrap_servers or running_broker(home):
        yield from topics(root, settings, servers)
    yield keys(Project(root, settings).keys, settings.serving.host)
    if settings.serving.port:
        yield port(settings.serving.port, "the HTTP service")


def disk(free_bytes: int) -> Finding:
    """Ok with room for the packages, the event archive and the models of a demonstration."""
    found = f"{free_bytes / 1e9:.1f} GB free"
    if free_bytes / 1e9 >= DISK_GB:
        return Finding("disk", "ok", found)
    return Finding("disk", "warning", f"{found}; {DISK_GB:.0f} GB are advised", "du -xh . | sort -h | tail")


def available_bytes(meminfo: str) -> int | None:
    """MemAvailable of a /proc/meminfo text in bytes, or None."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, flags=re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def memory(available: int | None) -> Finding:
    """Ok with what broker, Spark, service and training take together on a laptop."""
    if available is None:
        return Finding("memory", "ok", "not known on this system")
    found = f"{available / 1e9:.1f} GB available"
    if available / 1e9 >= MEMORY_GB:
        return Finding("memory", "ok", found)
    return Finding(
        "memory", "warning", f"{found}; {MEMORY_GB:.0f} GB are advised", "ps -eo rss,comm --sort=-rss | head"
    )


def definitions(folder: Path) -> Finding:
    """Ok when the feature repo loads; else its error, or that of the packages that loading needs."""
    try:
        from features.definitions import load_repo

        repo = load_repo(folder)
    except ImportError as error:
        return Finding("definitions", "failed", str(error), "make setup")
    except HeadraceError as error:
        return Finding("definitions", "failed", str(error), error.next_step or "edit that file")
    views = ", ".join(f"{view.name} ({len(view.features)})" for view in repo.views.values())
    return Finding("definitions", "ok", f"features by view: {views or 'none'}")


def findings() -> Iterator[Finding]:
    """Findings of all checks, in the order in which problems are best mended."""
    yield python_version()
    if LOCK.exists():  # a wheel has none: what it needs is in its metadata
        yield packages(locked(LOCK.read_text()))
    yield import_names(importlib.metadata.packages_distributions())
    yield import_paths(Path.cwd())
    yield java(java_modules(java_command(os.environ)))
    yield from by_settings(Path.cwd(), os.environ)
    yield disk(shutil.disk_usage(Path.cwd()).free)
    yield definitions(ROOT / "feature_repo")
    meminfo = Path("/proc/meminfo")
    yield memory(available_bytes(meminfo.read_text()) if meminfo.exists() else None)


def line(finding: Finding) -> str:
    """A finding as a person reads it."""
    status = click.style(f"{finding.status:8}", fg=COLOURS[finding.status])
    mend = f"\n{'':9}{'':13} → {finding.mend}" if finding.mend else ""
    return f"{status} {finding.check:13} {finding.found}{mend}"


def is_fit(results: Sequence[Finding]) -> bool:
    """True when no check failed."""
    return all(finding.status != "failed" for finding in results)


def report(results: Sequence[Finding]) -> dict[str, object]:
    """The findings as the JSON that --json prints."""
    return {"ok": is_fit(results), "checks": [asdict(finding) for finding in results]}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: each finding is ok, or comes with the command that mends it.

    Exits 1 when something is wrong that is needed today; what only the running loop will need is a warning.

    \b
    Examples:
      headrace doctor
      headrace doctor --json
    """
    results = list(findings())
    print_report(report(results), as_json, lambda _: map(line, results))
    ctx.exit(0 if is_fit(results) else 1)
