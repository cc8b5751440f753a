"""A small shop to serve: a store with a few users, a registry of models, and an HTTP client."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.definitions.repo import FeatureRepo, load_repo
from features.events.parsing import from_columns
from features.hashing import hash_texts
from features.machine import free_port
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.settings import StoreSettings
from features.online_store.sqlite.rows import SqliteRows
from models.folder import ViewInputs
from models.recommender.artefact import Artefact, Manifest, save
from models.recommender.golden import goldens_of
from models.recommender.tables import CandidateTables, SparseRows
from models.registry import Pinned
from models.tags import DIGEST_TAG, verdict_tags
from serving.config import ServiceConfig
from serving.service import Service

REPO = Path(__file__).resolve().parent.parent.parent / "feature_repo"
MODEL = "shop-recommender"
ITEMS = tuple(f"item{number}" for number in range(30))
STREAM_ID = 7


# --- the world: a store, a registry, a model --------------------------------------------------------------------------


def fill(rows: SqliteRows, repo: FeatureRepo, ago_ms: int = 60_000, others: int = 10) -> None:
    """User u1 viewed item3 and item4 ``ago_ms`` before now; the ``others``, from u2 on, viewed item9."""
    now = time.time_ns() // 1_000_000
    views_of_items = [("u1", "item3"), ("u1", "item4"), *((f"u{number}", "item9") for number in range(2, 2 + others))]
    table = pa.table(
        {
            "event_id": [str(number) for number in range(len(views_of_items))],
            "event_time": pa.array([now - ago_ms + number for number in range(len(views_of_items))]),
            "event_type": ["view"] * len(views_of_items),
            "user_id": [user for user, _ in views_of_items],
            "item_id": [item for _, item in views_of_items],
        }
    )
    views = [repo.views[name] for name in ("user_activity", "item_activity")]
    events = {"activity": from_columns(table, repo.streams["activity"]).events}
    build_generation(rows.generation(STREAM_ID), views, STREAM_ID, events, Marker(0, {}, {}, 0), now)
    for view in views:
        rows.set_current(view.name, STREAM_ID)


class EmptyRegistry:
    """The registry of any model, without a version."""

    def __init__(self, _name: str) -> None:
        pass

    def find(self, name: str) -> Pinned | None:
        return None

    def listed(self) -> dict[str, Pinned]:
        return {}

    def fetch(self, pinned: Pinned) -> AbstractContextManager[Path]:
        raise AssertionError(pinned)

    def report(self, pinned: Pinned, reason: str, tag: str = "") -> None:
        raise AssertionError(reason)


def model(repo: FeatureRepo, step: int) -> Artefact:
    """A model in which item n goes with item n + step and item0 is the most popular; two user and two item features."""
    count = len(ITEMS)
    user, item = repo.views["user_activity"], repo.views["item_activity"]
    tables = CandidateTables(
        items=ITEMS,
        neighbours=SparseRows(
            np.arange(count + 1), ((np.arange(count) + step) % count).astype(np.int32), np.ones(count, np.float32)
        ),
        popular=np.arange(count, 0, -1).astype(np.float32),
        trending=np.zeros(count, np.float32),
        users=hash_texts(pa.array(["u99"])),
        histories=SparseRows(np.array([0, 1]), np.array([20], np.int32), np.ones(1, np.float32)),
        own_count=np.ones(1, np.float32),
        own_last_ms=np.array([1]),
    )
    manifest = Manifest(
        name=MODEL,
        created_ms=1,
        as_of_ms=time.time_ns() // 1_000_000,
        target=("purchase",),
        items=count,
        user=ViewInputs(
            view=user.name,
            schema_hash=f"{user.schema_hash:016x}",
            names=("user_view_count_1h", "user_view_count_24h"),
        ),
        item=ViewInputs(
            view=item.name,
            schema_hash=f"{item.schema_hash:016x}",
            names=("item_view_count_1h", "item_view_count_24h"),
        ),
        recent_feature=next(name for name in user.names if "item_id_last" in name),
        metrics={"ndcg_at_10": 0.25},
    )
    return Artefact(manifest, tables)


@dataclass(frozen=True)
class Models:
    """A registry of models in a folder of the test."""

    folder: Path
    repo: FeatureRepo

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def register(self, step: int, **changes: object) -> str:
        """Registers a model with a passed verdict, without an alias; returns its version.

        Args:
            changes: fields of its manifest to change.
        """
        source = self.folder / f"model{step}"
        artefact = model(self.repo, step)
        manifest = artefact.manifest.model_copy(update={"golden": goldens_of(artefact), **changes})
        digest = save(replace(artefact, manifest=manifest), source)
        return self.register_folder(source, {DIGEST_TAG: digest, **verdict_tags(digest, True, "as it was trained")})

    def register_folder(self, source: Path, tags: dict[str, str]) -> str:
        """Registers the model in a folder with these tags; returns its version."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        if not client.search_registered_models():
            client.create_registered_model(MODEL)
        return str(client.create_model_version(MODEL, str(source), tags=tags).version)

    def tags(self, version: str) -> dict[str, str]:
        from mlflow import MlflowClient

        return dict(MlflowClient(self.uri).get_model_version(MODEL, version).tags)

    def promote(self, version: str) -> None:
        from mlflow import MlflowClient

        MlflowClient(self.uri).set_registered_model_alias(MODEL, "champion", version)


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Http:
    """A client of one service."""

    url: str

    def ask(self, path: str, body: object = None, raw: bytes | None = None) -> tuple[int, dict, str]:
        """(status, JSON, media type)"""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read()), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), error.headers.get_content_type()

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def recommend(self, **body: object) -> dict:
        status, answer, _ = self.ask("/v1/recommend", body)
        assert status == 200, answer
        return answer


def until(condition: Callable[[], object], what: str, within_s: float = 180.0) -> None:
    """Returns when the condition holds; fails after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        threading.Event().wait(0.05)


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def settings(store: Path, models_uri: str, **more: object) -> ServiceConfig:
    """Settings with short polls and long deadlines, so that a busy machine makes no fallbacks."""
    return ServiceConfig(
        repo=str(REPO),
        store=StoreSettings(address=str(store), deadline_ms=20_000),
        tracking_uri=models_uri,
        port=free_port(),
        item_refresh_s=0.2,
        model_poll_s=0.2,
        deadline_ms=20_000,
        **more,
    )


def with_items(store: Path, **more: object) -> Service:
    """The service of a store that is filled for it, with its items read: no thread runs, and there are no models."""
    from serving.app import service_of

    fill(SqliteRows(store), load_repo(REPO))
    service = service_of(settings(store, "", **more))
    service.default.items.refresh(list, 1)
    return service


@contextmanager
def plain(config: ServiceConfig, *, ready: bool = True) -> Iterator[Http]:
    """The same app in one uvicorn server of this process, for tests that do not need Ray.

    Args:
        ready: wait until it answers as asked.
    """
    import uvicorn

    from serving.app import build_asgi

    server = uvicorn.Server(uvicorn.Config(build_asgi(config), host=config.host, port=config.port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the server's start")
    http = Http(f"http://{config.host}:{config.port}")
    until(lambda: http.ask("/readyz")[0] == 200 or not ready, "readiness")
    try:
        yield http
    finally:
        server.should_exit = True
        thread.join(timeout=10)
