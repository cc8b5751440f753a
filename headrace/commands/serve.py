"""`headrace serve` and `headrace recommend`. Only click is imported before a command runs."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import HeadraceError, UsageError
from headrace.console import JSON, ROOT, echo, print_report

if TYPE_CHECKING:
    from headrace.project import Project
    from serving.config import ServiceConfig


WAIT_S = 30.0


class ServiceError(HeadraceError):
    """Raised when the running service does not answer, or answers with a problem."""


@click.command()
@click.option("--host", help="The address to listen on; serving.host by default.")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes a free one; serving.port by default.")
@click.option("--kafka", "bootstrap_servers", help="The Kafka for posted events; the settings' by default.")
@click.option("--clock", type=click.Choice(["wall", "stream"]), help="stream for a replay that keeps its times.")
@click.option("--replicas", type=click.IntRange(1), help="Processes that answer; serving.replicas by default.")
@click.option("--cpus", type=click.IntRange(1), default=2, show_default=True, help="Processors for Ray.")
@ROOT
def serve(cpus: int, root: Path, **overrides: Any) -> None:
    """Answer over HTTP with the champion, in the foreground, until Ctrl-C.

    Without a model or a store it answers with popular or trending items, and the answer names the fallback. Beyond this
    machine it listens only where there are keys (see 'headrace keys').

    \b
    Examples:
      headrace serve
      headrace serve --port 0
    """
    from headrace.project import Project
    from serving.server import served

    project = Project.open(root)
    config = service_config(project, **overrides)
    for note in project.repo.chosen_recommenders(project.settings.training).notes:
        echo(note, err=True)
    echo("starting Ray Serve", err=True)
    _on_signals(_interrupt)
    try:
        with served(config, cpus) as url:
            ending = threading.Event()
            _on_signals(lambda *_: ending.set())  # only now: Ray has put handlers of its own in while it started
            echo(f"serving at {url} (API: {url}/docs); Ctrl-C ends it", err=True)
            ending.wait()
            echo("stopping", err=True)
    except KeyboardInterrupt:
        echo("stopped before it was ready", err=True)


def service_config(project: Project, **overrides: Any) -> ServiceConfig:
    """The configuration of the project's service: its settings, under those of ``overrides`` that are not None.

    Paths become absolute, as a replica runs in a folder of its own; port 0 becomes a free one.

    Raises:
        UsageError: feature_store.yaml is missing, or names a store that serves no packed rows.
    """
    from features.definitions import replaced_names
    from features.machine import free_port
    from features.online_store import read_settings_of
    from models.registry import absolute_uri
    from serving.config import ServiceConfig

    settings, repo, home = project.settings, project.definitions, project.home
    kafka = settings.kafka
    values = settings.serving.model_dump() | {
        "repo": str(repo.resolve()),
        "home": str(home.resolve()),
        "store": read_settings_of(repo / "feature_store.yaml"),
        "tracking_uri": absolute_uri(settings.mlflow.tracking_uri, project.root),
        "model_sources": project.model_sources,
        "recommender_names": replaced_names(settings.training),
        "keys": str(project.keys.resolve()),
        "tenant": project.tenant,
        "own_topics": (settings.stream.scores_topic, settings.stream.alerts_topic),
        "kept_model": str((home / "kept-model").resolve()),
        "bootstrap_servers": kafka.bootstrap_servers or _own_broker(home),
        "kafka_client": kafka.client,
        "schema_registry": kafka.schema_registry,
        "registry_client": kafka.registry,
    }
    values |= {name: value for name, value in overrides.items() if value is not None}
    values["port"] = values["port"] or free_port(values["host"])
    return ServiceConfig(**values)


def _own_broker(home: Path) -> str:
    """The address in the file of the project's broker, read without a Kafka client; empty where there is none."""
    try:
        return (home / "kafka" / "bootstrap").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _on_signals(handler: Callable[..., None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option("--recommender", metavar="NAME", help="The recommender; the default one unless given.")
@click.option("--user", "user_id", metavar="U", help="The user.")
@click.option("--item", "item_id", metavar="I", help="The item of the page.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 500), help="How many items.")
@click.option("--exclude-seen", is_flag=True, help="Leave out the user's own history.")
@click.option("--explain", is_flag=True, help="Show the reasons of each item.")
@click.option("--url", help="The service's address; the settings' by default.")
@JSON
@ROOT
def recommend(user_id: str | None, item_id: str | None, url: str | None, root: Path, **options: Any) -> None:
    """Ask the running service for recommendations.

    \b
    Examples:
      headrace recommend --user u1
      headrace recommend --user u1 -k 5 --explain
      headrace recommend --item i42 --json
    """
    as_json = options.pop("as_json")
    context = {} if item_id is None else {"item_id": item_id}
    answer = post(f"{url or _configured(root)}/v1/recommend", {"user_id": user_id, "context": context, **options})
    print_report(answer, as_json, shown)


def _configured(root: Path) -> str:
    """The address of the project's service, for a client on this machine."""
    from headrace.client import reached_at
    from headrace.project import Project

    serving = Project.open(root).settings.serving
    if not serving.port:
        raise UsageError("headrace recommend", "--url, as serving.port of the settings is 0", "none")
    return f"http://{reached_at(serving.host)}:{serving.port}"


def post(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The service's answer. Raises ServiceError where there is none, or with the problem in it."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    from headrace.client import access_headers

    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json", **access_headers()})
    try:
        with urlopen(request, timeout=WAIT_S) as answer:
            content: dict[str, Any] = json.loads(answer.read())
            return content
    except HTTPError as error:
        raise ServiceError(url, "a request that the service takes", _detail(error.read())) from None
    except (URLError, TimeoutError, ConnectionError) as error:
        got = str(getattr(error, "reason", error))
        raise ServiceError(url, "a running service", got, "Start it with 'headrace serve'.") from None


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def shown(answer: Mapping[str, Any]) -> str:
    """The answer as a table, under a line about its model and features."""
    model, features, fallback = answer["model"], answer["features"], answer["fallback"]
    head = [f"model {model['name']} {model['version']} ({model['alias']})" if model else "no model"]
    head.append(f"features {features['status'] or 'of nobody'}")
    head += [f"{features['age_ms']} ms old"] if features["age_ms"] is not None else []
    head += [f"fallback: {fallback['reason']}"] if fallback["used"] else []
    head.append(f"{answer['took_ms']:.1f} ms")
    width = max((len(item["item_id"]) for item in answer["items"]), default=0)
    return "\n".join([click.style(" · ".join(head), bold=True), *(_line(item, width) for item in answer["items"])])


def _line(item: Mapping[str, Any], width: int) -> str:
    why = f"  {', '.join(item['reasons'])}" if item["reasons"] else ""
    return f"{item['rank']:>3}  {item['item_id']:{width}}  {item['score']:>10.4f}  {item['source']}{why}"
