"""What the project's files choose for the service: settings, feature_store.yaml, and the broker that runs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.machine import free_port
from features.online_store import read_settings_of
from headrace.settings import Settings
from models.registry import absolute_uri
from serving.settings import ServingSettings


def chosen(settings: Settings, root: Path, **over: Any) -> ServingSettings:
    """The service's settings for the project in ``root``, with those of ``over`` that are not None over them.

    Paths become absolute, as a replica runs in a folder of its own; port 0 becomes a free one.

    Raises:
        UsageError: feature_store.yaml is missing, or names a store that serves no packed rows.
    """
    repo = root / settings.stream.repo
    values: dict[str, Any] = {
        "host": settings.serving.host,
        "port": settings.serving.port,
        "deadline_ms": settings.serving.deadline_ms,
        "served_log_share": settings.serving.served_log_share,
        "canary_share": settings.serving.canary_share,
        "canary_slower": settings.serving.canary_slower,
        "shadow_share": settings.serving.shadow_share,
        "read_age_slo_s": settings.serving.read_age_slo_s,
        "replicas": settings.serving.replicas,
        "own_clicks": settings.serving.own_clicks,
        "repo": str(repo.resolve()),
        "store": read_settings_of(repo / "feature_store.yaml"),
        "tracking_uri": absolute_uri(settings.mlflow.tracking_uri, root),
        "kept_model": str((root / settings.home / "kept-model").resolve()),
        "bootstrap_servers": settings.kafka.bootstrap_servers or own_broker(root / settings.home),
        "kafka_client": settings.kafka.client,
        "schema_registry": settings.kafka.schema_registry,
        "registry_client": settings.kafka.registry,
    }
    values |= {name: value for name, value in over.items() if value is not None}
    values["port"] = values["port"] or free_port(values["host"])
    return ServingSettings(**values)


def own_broker(home: Path) -> str:
    """The address of the broker that runs on this home, which it leaves in a file; empty where none runs."""
    try:
        return (home / "kafka" / "bootstrap").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def origin(settings: Mapping[str, Any]) -> str:
    """The service's address for a client on this machine."""
    host = "127.0.0.1" if settings["host"] == "0.0.0.0" else settings["host"]
    return f"http://{host}:{settings['port']}"
