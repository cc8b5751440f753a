"""Where the time of a request goes: the service in this process, looked at while it answers one client."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from headrace.bench.loop.serve.requests import FULL
from headrace.client import access_headers
from headrace.loop import KEYS, Loop, LoopError

if TYPE_CHECKING:
    from serving.config import ServiceConfig

STEPS = (
    ("models/recommender/artefact", "ranker"),
    ("models/recommender/", "retrieval"),
    ("models/", "ranker"),
    ("/sklearn/", "ranker"),
    ("features/", "features"),
    ("serving/recommend/users", "features"),
    ("serving/recommend/readers", "features"),
    ("serving/recommend/served_log", "served_log"),
    ("serving/events/", "served_log"),
    ("serving/recommend/convert", "http"),
    ("serving/http/", "http"),
    ("serving/app", "http"),
    ("/fastapi/", "http"),
    ("/starlette/", "http"),
    ("/pydantic/", "http"),
    ("serving/workers", "waiting"),
    ("serving/batches", "waiting"),
    ("serving/", "rules"),
)
"""Part of a module's path → the step that its work belongs to; the first that fits."""

WAITING = "waiting"
"""The step of a moment in which no thread is in a module of the service: on the way from one thread to another."""

WORKER = "answer"
"""What the names of the threads that answer begin with."""

LOOK_EVERY_S, SWITCH_S = 0.0005, 0.00002

READY_WITHIN_S = 60.0

DEADLINE_MS = 5_000.0


class Sampler:
    """Counts the steps that requests are in while ``busy`` is set: of workers, and of the thread that made it."""

    def __init__(self) -> None:
        self._loop = threading.get_ident()
        self.counts: Counter[str] = Counter()
        self.busy = False
        self._step_of: dict[CodeType, str | None] = {}

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """A thread looks every LOOK_EVERY_S during the block; threads hand over to it at once."""
        ended, before = threading.Event(), sys.getswitchinterval()
        thread = threading.Thread(target=self._until, args=(ended,), name="sampler", daemon=True)
        sys.setswitchinterval(SWITCH_S)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            sys.setswitchinterval(before)

    def _until(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_EVERY_S):
            if self.busy:
                self.counts[self._now()] += 1

    def _now(self) -> str:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = [
            frame
            for ident, frame in sys._current_frames().items()
            if ident == self._loop or names.get(ident, "").startswith(WORKER)
        ]
        steps = {self._step(frame) for frame in frames} - {WAITING}
        return min(steps, key=_ORDER.index) if steps else WAITING

    def _step(self, frame: FrameType | None) -> str:
        """The step of the innermost frame that is of a module in STEPS."""
        while frame is not None:
            code = frame.f_code
            if code not in self._step_of:
                self._step_of[code] = next((step for part, step in STEPS if part in code.co_filename), None)
            step = self._step_of[code]
            if step is not None:
                return step
            frame = frame.f_back
        return WAITING


_ORDER = list(dict.fromkeys([*(step for _, step in STEPS if step != "http"), "http"]))
"""Where two threads are in a step each, the one that works for the other comes first."""


def config_of(loop: Loop) -> ServiceConfig:
    """The configuration of the loop's service, with time for an answer that is looked at."""
    from features.definitions import replaced_names
    from features.online_store import read_settings_of
    from serving.config import ServiceConfig

    settings = loop.settings
    values = settings.serving.model_dump() | {
        "port": loop.port,
        "deadline_ms": DEADLINE_MS,
        "repo": str(loop.repo.resolve()),
        "home": str(loop.home.resolve()),
        "keys": str((loop.home / KEYS).resolve()),
        "store": read_settings_of(loop.repo / "feature_store.yaml"),
        "tracking_uri": loop.tracking_uri,
        "recommender_names": replaced_names(settings.training),
        "bootstrap_servers": loop.bootstrap,
        "kafka_client": settings.kafka.client,
    }
    return ServiceConfig(**values)


def steps_of(config: ServiceConfig, path: str, bodies: Sequence[Mapping[str, Any]], warm: int) -> dict[str, float]:
    """Step → mean ms of a request in it; their sum is the mean time of a request in this process, without sockets.

    Args:
        config: of the service.
        bodies: asked one after the other.
        warm: how many of them are asked before.
    """
    from serving.app import build_asgi

    app, sampler = build_asgi(config), Sampler()
    took_s, count = asyncio.run(_asked(app, path, bodies, warm, sampler))
    total = sum(sampler.counts.values())
    mean_ms = 1e3 * took_s / count
    return {step: round(mean_ms * sampler.counts[step] / total, 4) for step in _ORDER if total}


async def _asked(
    app: Any, path: str, bodies: Sequence[Mapping[str, Any]], warm: int, sampler: Sampler
) -> tuple[float, int]:
    """Seconds of the requests after the warm ones, and their number. Raises LoopError for one that is not answered."""
    took_s = 0.0
    async with living(app):
        await _ready(app)
        with sampler.sampling():
            for number, body in enumerate(bodies):
                sampler.busy, began = number >= warm, time.perf_counter()
                status, answer = await ask(app, "POST", path, json.dumps(body).encode())
                took_s += (time.perf_counter() - began) * sampler.busy
                sampler.busy = False
                if status != FULL or answer["fallback"]["used"]:
                    got = f"{status}: {answer.get('fallback', answer)}"
                    raise LoopError(f"{path} in this process", "an answer by the model", got)
    return took_s, len(bodies) - warm


async def _ready(app: Any) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while (await ask(app, "GET", "/v1/models"))[1].get("current") is None or not await _items(app):
        if time.monotonic() > until:
            raise LoopError("the service in this process", f"a model within {READY_WITHIN_S:.0f} s", "none yet")
        await asyncio.sleep(0.1)


async def _items(app: Any) -> int:
    return int((await ask(app, "GET", "/readyz"))[1].get("items", 0))


@asynccontextmanager
async def living(app: Any) -> AsyncIterator[None]:
    """The ASGI application has started, and is shut down at the end."""
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    told: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, asked.get, told.put))
    try:
        for event in ("startup", "shutdown"):
            await asked.put({"type": f"lifespan.{event}"})
            message = await told.get()
            if not message["type"].endswith("complete"):
                raise LoopError("the service in this process", f"to go through {event}", str(message.get("message")))
            if event == "startup":
                yield
    finally:
        task.cancel()


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    """Status and JSON of an ASGI application's answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), text.encode()) for name, text in access_headers().items()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    parts: list[Mapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        return await asyncio.Future()  # the client stays

    async def send(message: Mapping[str, Any]) -> None:
        parts.append(message)

    await app(scope, receive, send)
    content = b"".join(part.get("body", b"") for part in parts)
    return int(parts[0]["status"]), json.loads(content)
