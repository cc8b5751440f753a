"""An entity is forgotten: everything of it is deleted, place by place, and then it is searched for in all of them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo
from features.events import encode_key
from features.hashing import hash_texts
from features.online_store import Erasure
from streaming.forget.alerts_database import forget_alerts
from streaming.forget.online import forget_pending, forget_rows, forget_sessions, named_in
from streaming.forget.search import files_of, hashed_in, is_binary, times_in
from streaming.forget.subject import Subject
from streaming.forget.tables import forget_in_table, own_rows
from streaming.forget.topics import forget_letters, kept_topics, send_tombstones
from streaming.incidents import forget_silences, silences_file
from streaming.kafka import DEAD, EventProducer

BROKER, STAGES = "kafka", "training"
"""Folders of the home: the embedded broker's data, and kept stages of trainings that have not ended."""

DATABASES = (".db", ".db-wal", ".db-shm", ".pending", ".pending-wal", ".pending-shm")

ALWAYS_KEPT = (
    (
        "event ids of its events, as hashes",
        "a repetition is not counted again",
        "their stream's dedupe_horizon has passed",
    ),
    ("what its events add to rows of others", "counts and sums tell nobody apart", "headrace features rebuild"),
    ("what receivers of alerts and readers of topics have copied, and backups", "they are not ours", ""),
)


@dataclass(frozen=True)
class Places:
    """The places of a project.

    Args:
        searched: the folders whose files are searched.
        topics: those of its streams, scores and alerts.
        bootstrap: Kafka's; None for none.
        postgres: connection string, password and table of alerts; None for none.
        registry: the address of a registry of models that is on no disk of this machine; empty for none.
    """

    repo: FeatureRepo
    home: Path
    offline: Path
    store: Erasure
    searched: Sequence[Path]
    topics: Sequence[str]
    bootstrap: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    postgres: tuple[str, str, str] | None = None
    registry: str = ""


@dataclass
class ForgetReport:
    """What was deleted, where it is still found, and what stays.

    Args:
        deleted: what of → the number; by view and by table where there are several.
        found: place, times and whether it is only in what was folded into others' rows.
        kept: what, why, and until when.
        tombstones: topics that have one.
    """

    entity: str
    key: Mapping[str, Any]
    dry_run: bool
    deleted: dict[str, Any] = field(default_factory=dict)
    tombstones: list[str] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Nothing was found but what is folded into others' rows."""
        return all(each["folded"] for each in self.found)

    def keep(self, what: str, why: str, until: str) -> None:
        """Note what stays."""
        self.kept.append({"what": what, "why": why, "until": until})


def forget(
    places: Places, subject: Subject, now_ms: int, *, dry_run: bool = False, log: Callable[[str], object] = str
) -> ForgetReport:
    """All that a project has of the subject is deleted, but for what the report names.

    A crash leaves the rest, which the same call deletes. The stream may run: what it read before may come once more,
    which the search then finds.

    Raises:
        StoreError: a place does not answer; what is deleted stays so.
    """
    report = ForgetReport(subject.entity.name, dict(subject.key), dry_run)
    log("tables")
    tables = list(own_rows(places.offline, subject))
    # Before the rows, which alone tell whose they are.
    sessions = forget_sessions(places.store, {each for own in tables for each in own.sessions}, dry_run=dry_run)
    for own in () if dry_run else tables:
        forget_in_table(own, subject)
    log("topics")
    letters = _forget_in_topics(places, subject, report, now_ms)
    log("online store")
    report.deleted = {
        "rows": forget_rows(places.store, places.repo, subject, dry_run=dry_run),
        "pending": forget_pending(places.store, places.repo, subject, dry_run=dry_run),
        "sessions": sessions,
        "tables": {own.table.name: own.count for own in tables if own.count},
        "dead_letters": letters,
        "alerts_database": 0,
        "silences": forget_silences(
            silences_file(places.home / "checkpoints"),
            places.repo.silences.values(),
            subject.entity,
            encode_key(subject.key, subject.entity),
            dry_run=dry_run,
        ),
        "training_stages": _forget_stages(places.home / STAGES, dry_run=dry_run),
    }
    if places.postgres is not None:
        report.deleted["alerts_database"] = forget_alerts(*places.postgres, subject, dry_run=dry_run)
    left = "" if dry_run else places.store.purge()
    if left:
        report.keep(left, "a database keeps its own files", "")
    for what, why, until in ALWAYS_KEPT:
        report.keep(what, why, until)
    if places.registry:
        report.keep(f"models in {places.registry}", "its files are not here", "the next version: headrace train")
    if not subject.is_sure:
        report.keep("the id within binary files", "it is too short to tell from other bytes", "")
    log("search")
    _search(places, subject, report)
    return report


def _forget_in_topics(places: Places, subject: Subject, report: ForgetReport, now_ms: int) -> dict[str, int]:
    """Topic of dead letters → the number of the subject's."""
    if places.bootstrap is None:
        report.keep("records in Kafka", "no broker is configured, and ours does not run", "its topics' retention")
        return {}
    names = [name for topic in places.topics for name in (topic, f"{topic}{DEAD}")]
    topics = kept_topics(places.bootstrap, places.options, names, now_ms)
    for each in topics:
        report.keep(f"records in topic {each.topic}", "Kafka deletes no single record", each.until)
    producer = EventProducer(places.bootstrap, places.options)
    if not report.dry_run:
        report.tombstones = send_tombstones(producer, topics, subject)
    letters = {
        each.topic: forget_letters(
            producer, places.bootstrap, places.options, each.topic, subject, dry_run=report.dry_run
        )
        for each in topics
    }
    return {topic: count for topic, count in letters.items() if count}


def _forget_stages(folder: Path, *, dry_run: bool) -> int:
    """The number of trainings whose kept stages are deleted: such a training begins anew."""
    trainings = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for path in trainings if not dry_run else ():
        shutil.rmtree(path, ignore_errors=True)
    return len(trainings)


def _search(places: Places, subject: Subject, report: ForgetReport) -> None:
    """The report has every place in which the subject is still found."""
    named = Counter(named_in(places.store, places.repo, subject))
    for (place, folded), times in sorted(named.items()):
        report.found.append({"place": f"online store: {place}", "times": times, "folded": folded})
    is_folded = any(folded for _, folded in named)
    hashes = hash_texts(pa.array([subject.text]))
    for path in files_of(places.searched, [places.home / BROKER]):
        readable = subject.pattern is not None and (subject.is_sure or not is_binary(path))
        times = times_in(path, subject.pattern) if subject.pattern is not None and readable else 0
        if times:
            folded = is_folded and path.name.endswith(DATABASES)
            report.found.append({"place": str(path), "times": times, "folded": folded})
        if hashed_in(path, hashes):
            report.keep(f"a hash of the id, with items, in {path}", "a model's own table", "headrace train")
