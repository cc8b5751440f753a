"""`headrace forget`. Only click is imported before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.console import JSON, ROOT, print_report, say

if TYPE_CHECKING:
    from headrace.project import Project
    from streaming.forget import Places


@click.command()
@click.argument("entity")
@click.argument("id_text", metavar="ID")
@click.option("--dry-run", is_flag=True, help="Only count: nothing is deleted.")
@JSON
@ROOT
def forget(entity: str, id_text: str, dry_run: bool, as_json: bool, root: Path) -> None:
    """Delete all that the project has of one entity, and search for it afterwards.

    Rows of all generations, pending events and sessions, the events in the archive with the files that had them, the
    served log, alerts, dead letters, and kept stages of trainings; topics that Kafka compacts get a tombstone. The
    report says what stays and until when: records in Kafka until their retention, a model's own tables until the next
    training. Exit 1 where the search still finds the id. Stop the stream first, or run it again when the stream has
    folded what was on its way; SQLite's file is written anew, and readers of older versions of a table have to open it
    again. ID is as for 'headrace features show'; an ID that begins with - comes after --.

    \b
    Examples:
      headrace forget user u1 --dry-run
      headrace forget user u1 --json
    """
    from features.events import parsed_key
    from features.times import now_ms
    from headrace.project import Project
    from streaming.forget import Subject
    from streaming.forget import forget as forgotten

    project = Project.open(root)
    entities = project.repo.entities
    if entity not in entities:
        raise UsageError("an entity", f"one of {', '.join(entities)}", repr(entity))
    subject = Subject(entities[entity], parsed_key(entities[entity], id_text))
    if None in subject.key.values() or not subject.text:
        raise UsageError("an ID", "the key of an entity", repr(id_text))
    with ExitStack() as stack:
        places = _places(project, stack)
        report = forgotten(places, subject, now_ms(), dry_run=dry_run, log=lambda part: say(f"forgetting: {part}"))
    print_report({**asdict(report), "clean": report.is_clean}, as_json, _lines)
    if not dry_run and not report.is_clean:
        raise SystemExit(1)


def _places(project: Project, stack: ExitStack) -> Places:
    """The project's places; its own broker runs during the block of ``stack`` if it has data."""
    from features.online_store import store_of
    from headrace.cluster import cluster, has_cluster
    from models.registry import resolve_uri
    from streaming import forget
    from streaming.scoring import problems_topic

    settings, repo = project.settings, project.repo
    stream, alerts = settings.stream, settings.alerts
    topics = [topic for each in repo.streams.values() for topic in each.topics]
    topics += [stream.scores_topic, stream.alerts_topic]
    topics += [problems_topic(stream.scores_topic, model) for model in repo.models]
    uri, artefacts = resolve_uri(settings.mlflow.tracking_uri, project.root)
    bootstrap = stack.enter_context(cluster(settings, project.root)) if has_cluster(settings, project.root) else None
    postgres = (alerts.postgres, alerts.postgres_password.get_secret_value(), alerts.postgres_table)
    folders = [project.home, project.offline, *([artefacts] if artefacts else [])]
    return forget.Places(
        repo=repo,
        home=project.home,
        offline=project.offline,
        store=store_of(project.definitions, project.home).erasure(),
        searched=[folder for folder in folders if folder.is_dir()],
        topics=topics,
        bootstrap=bootstrap,
        options=settings.kafka.client,
        postgres=postgres if alerts.postgres else None,
        registry="" if artefacts else uri,
    )


def _lines(report: dict[str, Any]) -> Iterator[str]:
    verb = "would delete" if report["dry_run"] else "deleted"
    counts = [f"{count:,} {what}" for what, count in _flat(report["deleted"]) if count]
    yield f"{report['entity']} {', '.join(map(str, report['key'].values()))}: {verb} {', '.join(counts) or 'nothing'}"
    yield from (f"  tombstone in topic {topic}" for topic in report["tombstones"])
    for each in report["found"]:
        why = "folded into rows of others" if each["folded"] else "still there"
        yield f"  found {each['times']:,} times in {each['place']}: {why}"
    for each in report["kept"]:
        until = f", until {each['until']}" if each["until"] else ""
        yield f"  stays: {each['what']} ({each['why']}{until})"


def _flat(deleted: dict[str, Any]) -> Sequence[tuple[str, int]]:
    found = []
    for what, count in deleted.items():
        if isinstance(count, dict):
            found += [(f"{what} of {name}", each) for name, each in count.items()]
        else:
            found.append((what.replace("_", " "), count))
    return found
