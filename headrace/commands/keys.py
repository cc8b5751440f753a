"""`headrace keys`: who may ask the HTTP service for what. Only click is imported before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import DefinitionError, UsageError
from headrace.console import JSON, ROOT, aligned, print_report, say

if TYPE_CHECKING:
    from headrace.project import Project
    from serving.access import Key

DEFAULT_RATE = 100.0

WITHIN_S = 1
"""A service has seen a change of the file after this."""

SCOPES = "read, ops, events:STREAM or events:*"


@click.group()
def keys() -> None:
    """Keys of the HTTP service: what each may do, for which tenant, how often.

    Once there is a key, or a file of keys, the service answers nobody without one but /healthz and /readyz; beyond this
    machine it listens only then. Running services see a change within a second.

    \b
    Scopes:
      read           /v1/recommend, rank, similar, score, features; the document of the API
      events:STREAM  POST /v1/events of this stream; events:* of every one that serving.writable_streams lists
      ops            /metrics, /v1/models, and what /readyz says in words

    \b
    Examples:
      headrace keys add web --scope read --scope events:activity
      headrace keys list
      headrace keys revoke web
    """


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, metavar="SCOPE", help=f"{SCOPES}; several are given.")
@click.option("--tenant", metavar="T", help="Whose services it is for; this project's unless given.")
@click.option("--rate", default=DEFAULT_RATE, show_default=True, metavar="N", help="Requests a second.")
@click.option("--expires", metavar="T", help="A time from now, such as 90d, or RFC 3339; never unless given.")
@JSON
@ROOT
def add(
    name: str,
    scopes: Sequence[str],
    tenant: str | None,
    rate: float,
    expires: str | None,
    as_json: bool,
    root: Path,
) -> None:
    """Make a key and print it, this once: the file has its SHA-256 only.

    It goes into requests as Authorization: Bearer KEY, or X-API-Key: KEY; 'headrace recommend' and 'headrace up' send
    the one in the variable HEADRACE_KEY. As many requests come at once as in a second; beyond that they get 429.

    \b
    Examples:
      headrace keys add web --scope read --scope events:activity --rate 200
      headrace keys add prometheus --scope ops --expires 90d --json
    """
    from features.times import now_ms
    from headrace.project import Project
    from serving.access import MOST_TENANT, added

    project, now = Project.open(root), now_ms()
    _check(name, scopes, rate)
    tenant = project.tenant if tenant is None else tenant
    if not 0 < len(tenant) <= MOST_TENANT:
        raise UsageError("--tenant", f"a name of up to {MOST_TENANT} characters", repr(tenant))
    if tenant == project.tenant:
        _check_streams(project, scopes)
    expires_at = None if expires is None else _expiry(expires, now)
    made = added(project.keys, name, scopes, tenant, rate, now, expires_at)
    print_report({"name": name, "key": made.text, **_shown(made.key)}, as_json, lambda report: str(report["key"]))
    say(f"the key is shown this once; {project.keys} has its SHA-256. Services ask for keys from now on.")


@keys.command("list")
@JSON
@ROOT
def list_keys(as_json: bool, root: Path) -> None:
    """List the keys by name, with all that is known of them; the keys themselves are nowhere.

    \b
    Examples:
      headrace keys list
      headrace keys list --json
    """
    from headrace.project import Project
    from serving.access import read_keys

    path = Project.open(root).keys
    found = read_keys(path)
    if found is None and not as_json:
        say(f"no keys: {path} does not exist, and the service listens on this machine alone")
    print_report([{"name": key.name, **_shown(key)} for key in found or ()], as_json, _lines)


@keys.command()
@click.argument("name")
@JSON
@ROOT
def revoke(name: str, as_json: bool, root: Path) -> None:
    """End a key: within a second no service answers it.

    The last one, too, leaves a file, and so a service that answers nobody; delete the file to have one without keys.

    \b
    Examples:
      headrace keys revoke web
    """
    from headrace.project import Project
    from serving.access import revoked

    gone = revoked(Project.open(root).keys, name)
    report = {"name": gone.name, **_shown(gone), "revoked": True}
    print_report(report, as_json, lambda _: f"{gone.name} is revoked; services refuse it within {WITHIN_S} s")


def _check(name: str, scopes: Sequence[str], rate: float) -> None:
    import re

    from serving.access import HIGHEST_RATE, LOWEST_RATE, NAME, SCOPE

    if not re.match(NAME, name):
        raise UsageError("a key's name", "up to 64 letters, digits, '.', '_' and '-'", repr(name))
    for scope in scopes:
        if not re.match(SCOPE, scope):
            step = "All streams: events:*." if scope == "events" else ""
            raise UsageError("--scope", SCOPES, repr(scope), step)
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UsageError("--rate", f"{LOWEST_RATE:g} to {HIGHEST_RATE:,.0f} requests a second", f"{rate:g}")


def _check_streams(project: Project, scopes: Sequence[str]) -> None:
    """Passes if the streams of the scopes are defined; says which of them HTTP may not write."""
    from serving.access import writable_streams

    names = [scope.partition(":")[2] for scope in scopes if scope.startswith("events:") and scope != "events:*"]
    if not names:
        return
    repo, settings = project.repo, project.settings
    chosen = repo.chosen_recommenders(settings.training)
    own_topics = settings.stream.scores_topic, settings.stream.alerts_topic
    writable = writable_streams(repo, chosen, settings.serving.writable_streams, own_topics)
    for name in names:
        if name not in repo.streams:
            raise UsageError("--scope events:STREAM", f"one of {', '.join(repo.streams)}", repr(name))
        if name not in writable:
            say(f"nobody may post to {name} yet: serving.writable_streams of the settings does not list it")


def _expiry(text: str, now: int) -> int:
    from features.definitions import duration_ms
    from features.events import parsed_time

    try:
        at = now + duration_ms(text)
    except DefinitionError:
        at = parsed_time(text)
    if at <= now:
        raise UsageError("--expires", "a time to come, such as 90d", repr(text))
    return at


def _shown(key: Key) -> dict[str, Any]:
    return {
        "scopes": list(key.scopes),
        "tenant": key.tenant,
        "rate": key.rate,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    from features.times import moment_text

    names = ("name", "scopes", "tenant", "rate", "created", "expires")
    cells = [
        [
            row["name"],
            ", ".join(row["scopes"]),
            row["tenant"],
            f"{row['rate']:g}",
            moment_text(row["created_at"]),
            "never" if row["expires_at"] is None else moment_text(row["expires_at"]),
        ]
        for row in rows
    ]
    yield from aligned(names, cells, ("rate",)) if cells else ()
