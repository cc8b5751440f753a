"""`headrace deadletters`: refused records and their reasons, and sending them again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from features.redaction import inert_line
from headrace.console import JSON, echo, print_json

if TYPE_CHECKING:
    from headrace.settings import Settings
    from streaming.dead_letters import DeadLetter, Place
    from streaming.kafka import EventProducer

SHOWN = 20

TOPIC = click.option("--topic", metavar="TOPIC", help="Only of this topic.")

REASON = click.option("--reason", metavar="CODE", help="Only of this kind of reason, such as wrong_type.")


@dataclass(frozen=True)
class ConfiguredKafka:
    """The project's cluster and the settings of its clients."""

    settings: Settings
    bootstrap_servers: str

    def letters(self, topic: str | None = None) -> list[DeadLetter]:
        """The dead letters of a topic, or of all."""
        from streaming.dead_letters import read_dead_letters

        return read_dead_letters(self.bootstrap_servers, topic, self.settings.kafka.client)

    def deleted(self, topic: str | None) -> int:
        """The number of letters that the broker deleted, of a topic or of all."""
        from streaming.dead_letters import deleted_letters

        return deleted_letters(self.bootstrap_servers, topic, self.settings.kafka.client)


@contextmanager
def _kafka() -> Iterator[ConfiguredKafka]:
    from headrace.cluster import cluster
    from headrace.project import Project

    project = Project.open()
    with cluster(project.settings, project.root) as bootstrap_servers:
        yield ConfiguredKafka(project.settings, bootstrap_servers)


@click.group()
def deadletters() -> None:
    """Show the records that were refused, with the reason of each, and send them again.

    \b
    Examples:
      headrace deadletters list
      headrace deadletters show shop.activity/0/1841
      headrace deadletters replay --reason unknown_value
    """


@deadletters.command("list")
@TOPIC
@REASON
@click.option("--all", "everything", is_flag=True, help="Also those that were sent again.")
@click.option("--limit", default=SHOWN, show_default=True, help="The newest of each topic; 0 for all.")
@JSON
def list_letters(topic: str | None, reason: str | None, everything: bool, limit: int, as_json: bool) -> None:
    """List the records that were refused: offset, time and reason.

    \b
    Examples:
      headrace deadletters list
      headrace deadletters list --topic shop.activity --reason wrong_type --json
    """
    with _kafka() as kafka:
        letters, deleted = _chosen(kafka.letters(topic), reason, everything), kafka.deleted(topic)
    if deleted:
        echo(f"{deleted} older ones are gone: a topic of letters is kept up to its retention.bytes", err=True)
    shown = sorted(letters, key=lambda letter: (letter.time_ms, letter.place))[-limit:]
    if as_json:
        print_json([described(letter) for letter in shown])
        return
    for letter in shown:
        echo(inert_line(f"{_text(letter.place):32} {_when(letter.time_ms)}  {letter.reason}"))
    echo(_summary(letters, len(shown)), err=True)


@deadletters.command()
@click.argument("place", metavar="TOPIC/PARTITION/OFFSET")
@JSON
def show(place: str, as_json: bool) -> None:
    """Show one record that was refused: its reason, headers, key and bytes.

    \b
    Examples:
      headrace deadletters show shop.activity/0/1841
      headrace deadletters show shop.activity/0/1841 --json
    """
    topic = place.rsplit("/", 2)[0]
    with _kafka() as kafka:
        letter = _named([place], kafka.letters(topic))[-1]
    if as_json:
        print_json(described(letter))
        return
    for name, value in described(letter).items():
        echo(inert_line(f"{name:14} {value if isinstance(value, str) else json.dumps(value)}"))


@deadletters.command()
@click.argument("places", metavar="[TOPIC/PARTITION/OFFSET]...", nargs=-1)
@TOPIC
@REASON
@JSON
def replay(places: Sequence[str], topic: str | None, reason: str | None, as_json: bool) -> None:
    """Send refused records to their topics again, unchanged; remove the reason of the refusal first.

    Without arguments: all that were not sent again yet, or those of --topic and --reason. A record counts once, however
    often it is sent again; one whose event the archive has is not sent. Events that a model failed on are scored by
    today's champion instead, with the features of then.

    \b
    Examples:
      headrace deadletters replay shop.activity/0/1841
      headrace deadletters replay --topic shop.activity --reason unknown_value
    """
    from streaming.dead_letters import mark_replayed
    from streaming.dead_letters import replay as send_again
    from streaming.kafka import EventProducer

    with _kafka() as kafka:
        refused = kafka.letters(topic)
        letters = _named(places, refused) if places else _chosen(refused, reason, everything=False)
        producer = EventProducer(kafka.bootstrap_servers, kafka.settings.kafka.client)
        refused_by_models = _failed_in_models(letters, kafka.settings)
        count = _score_again(refused_by_models, kafka.settings, producer)
        records = [letter for letter in letters if letter not in refused_by_models]
        known = _archived(records)
        count += send_again(producer, [letter for letter in records if letter not in known])
        mark_replayed(producer, known)
    text = f"{count} sent again" + (f"; {len(known)} not, as the archive has their events" if known else "")
    echo(json.dumps({"replayed": count, "archived": len(known)}) if as_json else text)


def _archived(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """The letters whose events the project's archive has; none where there is no project."""
    from features.events.avro import schema_registry
    from headrace.project import Project
    from streaming.archived_letters import archived

    project = Project.open()
    if not letters or not project.definitions.exists():
        return []
    kafka = project.settings.kafka
    return archived(letters, project.repo, project.offline, schema_registry(kafka.schema_registry, kafka.registry))


def _failed_in_models(letters: Sequence[DeadLetter], settings: Settings) -> list[DeadLetter]:
    """The letters that are events which a model failed on, not records of a topic."""
    prefix = f"{settings.stream.scores_topic}."
    return [letter for letter in letters if letter.place[0].startswith(prefix)]


def _score_again(letters: Sequence[DeadLetter], settings: Settings, producer: EventProducer) -> int:
    """The number of letters that were scored; their scores and alerts are in the topics."""
    from features.definitions import load_repo
    from models.registry import absolute_uri
    from streaming.scoring import rescore

    if not letters:
        return 0
    root = Path.cwd()
    uri = absolute_uri(settings.mlflow.tracking_uri, root)
    topics = settings.stream.scores_topic, settings.stream.alerts_topic
    checkpoints = root / settings.home / "checkpoints"
    return rescore(letters, load_repo(root / settings.stream.repo), uri, producer, topics, checkpoints)


def _chosen(letters: Sequence[DeadLetter], reason: str | None, everything: bool) -> list[DeadLetter]:
    return [letter for letter in letters if (everything or not letter.is_replayed) and reason in (None, letter.code)]


def _named(places: Sequence[str], letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """The letters of these places; two of one place are of a topic that was made anew, the newer after the older."""
    known: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        known.setdefault(_text(letter.place), []).append(letter)
    for place in places:
        if place not in known:
            required = "a place that 'headrace deadletters list' shows"
            raise UsageError(f"dead letter '{place}'", required, "none of that name")
    return [letter for place in dict.fromkeys(places) for letter in known[place]]


def _summary(letters: Sequence[DeadLetter], shown: int) -> str:
    if not letters:
        return "no dead letters"
    counts = ", ".join(f"{count} {code}" for code, count in Counter(letter.code for letter in letters).most_common())
    return f"{shown} of {len(letters)} shown: {counts}"


def _text(place: Place) -> str:
    return "/".join(map(str, place))


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def described(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as --json prints it: bytes as text where they are UTF-8, and else {"base64": …}."""
    named = {"place": _text(letter.place), "time": _when(letter.time_ms), "reason": letter.reason}
    headers = [[name, _shown(value)] for name, value in letter.headers]
    parts = {"key": _shown(letter.key), "headers": headers, "value": _shown(letter.value)}
    return {**named, "is_replayed": letter.is_replayed, **parts}


def _shown(value: bytes | None) -> str | dict[str, str] | None:
    import base64

    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value or b"").decode()}
