"""What HTTP costs without any recommending: a constant answer by Ray Serve behind our HAProxy, and by uvicorn alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from headrace.bench.loop.serve.requests import FULL, Caller
from headrace.loop import Child, LoopError

ANSWER_BYTES = 1_000
"""The length of the constant answer: about that of ten items."""

STARTED_WITHIN_S = 180.0

MODULE = "headrace.bench.loop.serve.peers"

PEERS = ("empty_handler", "bare_uvicorn")

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


async def constant(scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
    """An ASGI application that reads the request and answers with ANSWER_BYTES."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = json.dumps({"fallback": {"used": False}, "items": [], "filler": "x" * ANSWER_BYTES}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def peer(name: str, root: Path, log: Path) -> Iterator[str]:
    """The address of one of PEERS, which answers until the block ends."""
    from features.machine import free_port

    port = free_port()
    module, *rest = {
        "empty_handler": [MODULE, str(port)],
        "bare_uvicorn": ["uvicorn", f"{MODULE}:constant", "--port", str(port), "--log-level", "error"],
    }[name]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        command = [sys.executable, "-m", module, *rest]
        process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    child = Child(name, log, process)
    try:
        _wait_for(child, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.stop()


def _wait_for(child: Child, port: int) -> None:
    until = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < until:
        child.check()
        with closing(Caller(("127.0.0.1", port))) as caller:
            if caller.recommend({"user_id": "u1"}).status == FULL:
                return
        time.sleep(0.1)
    raise LoopError(f"the peer '{child.name}'", "an answer", "none")


class Empty:
    """A replica of the constant application."""

    def __serve_build_asgi_app__(self) -> Any:
        """The app of this replica."""
        from serving.app import stay_on_loopback

        stay_on_loopback()
        return constant


def main(port: int) -> None:
    """The constant application answers on Ray Serve, with the settings of our service, until SIGTERM."""
    from ray import serve

    from headrace.loop import interrupts_end_it
    from serving.server import answering

    deployment: Any = serve.deployment(
        serve.ingress()(Empty), name="Empty", max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5}
    )
    try:
        with interrupts_end_it(), answering("127.0.0.1", port, deployment.bind, 2):
            while True:
                time.sleep(3_600)
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
