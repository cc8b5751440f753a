"""The application in a Ray of its own on this machine, which ends with it."""

from __future__ import annotations

import io
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from features.errors import HeadraceError
from features.machine import LOOPBACK
from serving.access import check_access
from serving.config import ServiceConfig
from serving.server.haproxy import environment_of, haproxy, refusal

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION = "headrace"

OBJECT_STORE_BYTES = 100_000_000

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's switch for desktops; off, all ports of a local node stay on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The service answers from its own threads and never blocks Ray's loop: this saves a change of threads.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Ray starts its workers at 15, so that whatever else runs on the machine goes before an answer.
    "RAY_worker_niceness": "0",
    # Clients switch no time limit off, choose no replica, and have no text of theirs echoed as the id of a request.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.http.ray_headers:middlewares",
    # A proxy that is not ready after three times this many seconds is killed, which fails the start; 5 is too few for a
    # machine that compiles, trains and starts Java at the same time, and so were 20 beside ten busy processes.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

EVERY = ("0.0.0.0", "::")

PROXIES_WITHIN_S = 180
"""How long Ray waits for its proxies; a constant of 60 s in Ray."""

ATTEMPTS = 3
"""Ray gives a node 30 s to come up, which a busy machine may exceed; the next attempt finds its files in the cache."""


class ServeError(HeadraceError):
    """Raised when Ray Serve cannot be started."""


@contextmanager
def served(settings: ServiceConfig, num_cpus: int = 2) -> Iterator[str]:
    """The service answers at the yielded URL, on a Ray that only this machine can reach, until the block ends.

    Raises:
        UsageError: other machines reach the address, and there are no keys.
        ServeError: Ray did not start, or the application failed to.
    """
    check_access(settings.host, Path(settings.keys) if settings.keys else None)
    run = TemporaryDirectory(prefix="headrace-run-", ignore_cleanup_errors=True)  # the owner's alone

    def application() -> Application:
        from serving.app import build_app

        return build_app(settings.model_copy(update={"run_folder": run.name}))

    with run, answering(settings.host, settings.port, application, num_cpus) as url:
        yield url


@contextmanager
def answering(host: str, port: int, application: Callable[[], Application], num_cpus: int) -> Iterator[str]:
    """The application answers as that of ``served`` does.

    Args:
        application: called once Ray has its settings.
    """
    _check_port(host, port)
    with haproxy(host, port) as front, environment_of(ENVIRONMENT | front), local_ray(num_cpus):
        from ray import serve

        try:
            _start_application(host, port, application, front)
            if not _several_machines():
                check_listeners(host, port)
            yield f"http://{host}:{port}"
        finally:
            with redirect_stdout(io.StringIO()):  # Ray prints that the controller has ended
                serve.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def local_ray(num_cpus: int) -> Iterator[None]:
    """A Ray whose ports are all on loopback runs until the block ends, also in a program that imported Ray before.

    Raises:
        ServeError: Ray did not start.
    """
    scratch = TemporaryDirectory(prefix="headrace-ray-", ignore_cleanup_errors=True)
    with scratch as folder, environment_of(ENVIRONMENT), own_token(Path(folder)):
        import ray
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = _several_machines()  # Ray reads the variable once, when it is imported
        try:
            _start_ray(num_cpus, folder)
            yield
        finally:
            with redirect_stdout(io.StringIO()):
                ray.shutdown()


def _several_machines() -> bool:
    """True where the environment asks for a Ray that other machines may join."""
    return os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") not in (None, "0", "false")


@contextmanager
def own_token(folder: Path) -> Iterator[None]:
    """Ray answers only those who have a token of its own, which is in a file of this folder for its owner alone.

    Whatever the environment says of Ray's authentication: without a token, whoever reaches a port of it runs code.
    """
    ray: Any = import_module("ray._raylet")  # compiled, without types

    path = folder / "auth_token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    before = {name: os.environ.pop(name) for name in AUTHENTICATION if name in os.environ}
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)})

    def read_anew() -> None:  # Ray reads the variables and the token once a process
        ray.Config.initialize("")
        ray.AuthenticationTokenLoader.instance().reset_cache()

    read_anew()
    try:
        yield
    finally:
        for name in AUTHENTICATION:
            os.environ.pop(name, None)
        os.environ.update(before)
        read_anew()


def check_listeners(host: str, port: int) -> None:
    """Passes if the processes of this one listen on loopback alone, and on the address that was asked for.

    Raises:
        ServeError: another port is open to other machines.
    """
    beyond = [each for each in _listeners() if not _is_loopback(each[1]) and (each[1], each[2]) != (host, port)]
    if host in EVERY:
        beyond = [each for each in beyond if each[1] not in EVERY or each[2] != port]
    if beyond:
        shown = ", ".join(f"{name} on {address}:{number}" for name, address, number in beyond)
        raise ServeError("Ray Serve", f"ports on loopback, but for {host}:{port}", shown, "Report it: Ray has changed.")


def _listeners() -> Iterator[tuple[str, str, int]]:
    """Name of the process, address and port of each TCP port that a child of this process listens on."""
    import psutil  # type: ignore[import-untyped]

    for child in psutil.Process().children(recursive=True):
        try:
            for each in child.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    yield child.name(), each.laddr.ip, each.laddr.port
        except psutil.Error:  # it has ended
            continue


def _is_loopback(address: str) -> bool:
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def _check_port(host: str, port: int) -> None:
    """Passes when the port is free; Ray would report it half a minute later."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            address = f"port {port} of {host}"
            raise ServeError("Ray Serve", f"{address} to listen on", str(error), "Choose another: --port 0.") from None


def _start_application(host: str, port: int, application: Callable[[], Application], front: Mapping[str, str]) -> None:
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve._private import api as private

    private.HTTP_PROXY_TIMEOUT = PROXIES_WITHIN_S  # type: ignore[attr-defined]  # imported there without a promise
    logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.WARNING)
    try:
        # Behind HAProxy, replicas listen on loopback whatever address was asked for.
        listening = {"host": LOOPBACK if front else host, "port": port}
        serve.start(http_options=listening, logging_config={"log_level": "ERROR"})
        serve.run(application(), name=APPLICATION, route_prefix="/")
    except (RuntimeError, TimeoutError, RayError) as error:
        refused = refusal(front)
        got = f"HAProxy's configuration has {refused}" if refused else _first_line(error)
        raise ServeError("Ray Serve", "the application to start", got) from error


def _start_ray(num_cpus: int, folder: str) -> None:
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        try:
            with chdir(folder):  # replicas import from it: a project may have its own features/ folder
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                )
        except Exception as error:
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise ServeError("Ray", f"to start in {ATTEMPTS} attempts", _first_line(error)) from error
        else:
            return


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
