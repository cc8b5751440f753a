"""Commands to a Redis server or a cluster of them: sent to every node that they concern at once, then answered.

redis-py finds the nodes and keeps the connections. Its own pipeline of a cluster is not used: it repeats every
command to a node that does not answer, one at a time, so that a read would take many times its deadline.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

from features.errors import StoreError
from features.redaction import remember_secrets

NAMES_A_COMMAND = 1_000

Mode = Literal["server", "cluster"]

Command = tuple[Any, ...]
"""Name, then arguments; its key is the first argument, or the first key of an EVAL. All its keys are in one slot."""


class _Own:
    """A connection of a server's pool that a thread keeps, and gives back when it ends."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self.process, self._connection = os.getpid(), connection
        weakref.finalize(self, pool.release, connection).atexit = False

    def answers(self, commands: Sequence[Command]) -> list[Any]:
        """The answers of a single try; it connects again if the connection was closed."""
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]
        except BaseException:  # answers may be left in it
            connection.disconnect()
            raise


class RedisClient:
    """A server, or the cluster that it is a node of; nothing connects before the first command.

    Args:
        timeout_s: the longest that a connection, or an answer, may take.
        password: of the user that the URL names, or of the default one; empty for the URL's own, or none.
    """

    def __init__(self, url: str, mode: Mode = "server", timeout_s: float = 2.0, password: str = "") -> None:
        remember_secrets({"url": url, "password": password})
        self._url, self._mode, self._timeout_s, self._password = url, mode, timeout_s, password
        self._held = threading.local()

    def ask(self, *commands: Command) -> list[Any]:
        """The answer to each command, in a single round trip to every node.

        Raises:
            StoreError: a server does not answer in time, or refuses a command.
        """
        from redis import RedisError
        from redis.exceptions import RedisClusterException  # no RedisError

        try:
            return self._answers(commands)
        except (RedisError, RedisClusterException, OSError) as error:
            raise _silent(error) from error

    def configured(self, pattern: str) -> list[dict[str, str]] | None:
        """The configuration of each server that holds keys, by CONFIG GET; None where that is forbidden.

        Raises:
            StoreError: a server does not answer in time.
        """
        from redis import RedisError, ResponseError
        from redis.exceptions import RedisClusterException

        try:
            if self._mode == "server":
                servers = [self._redis]
            else:
                servers = [self._redis.get_redis_connection(node) for node in self._redis.get_primaries()]
            return [server.config_get(pattern) for server in servers]
        except ResponseError:  # also NoPermissionError; managed servers do not know the command
            return None
        except (RedisError, RedisClusterException, OSError) as error:
            raise _silent(error) from error

    def names(self, pattern: str) -> Iterator[str]:
        """The keys of this pattern, of all servers; keys that come meanwhile may be missing.

        Raises:
            StoreError: a server does not answer in time.
        """
        from redis import RedisError
        from redis.exceptions import RedisClusterException

        try:
            for key in self._redis.scan_iter(match=pattern, count=NAMES_A_COMMAND):
                yield key.decode()
        except (RedisError, RedisClusterException, OSError) as error:
            raise _silent(error) from error

    def close(self) -> None:
        """Close the connections; the next command opens others."""
        self._held = threading.local()
        if "_redis" in self.__dict__:
            self._redis.close()
            del self._redis

    @cached_property
    def _redis(self) -> Any:
        from redis import Redis, RedisCluster
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # No retries but our one: more would make a dead server a slow one.
        once = Retry(NoBackoff(), 0)
        limits = {"socket_timeout": self._timeout_s, "socket_connect_timeout": self._timeout_s}
        password = {"password": self._password} if self._password else {}  # one in the URL takes precedence
        if self._mode == "server":
            return Redis.from_url(self._url, retry=once, **limits, **password)
        return RedisCluster.from_url(self._url, retry=once, **limits, **password)

    def _answers(self, commands: Sequence[Command]) -> list[Any]:
        from redis import ConnectionError as LostError
        from redis import TimeoutError as LateError
        from redis.exceptions import ClusterError

        try:
            return self._round(commands)
        except LateError:
            self._look_anew()
            raise
        except (ClusterError, LostError):
            self._look_anew()
            if self._mode == "server":
                return self._round(commands)  # the server may have closed the connection long ago
            # One by one, as redis-py follows slots that are on the move.
            return [self._redis.execute_command(*command) for command in commands]

    def _look_anew(self) -> None:
        """In a cluster, look up the nodes of the slots again: a replica may have taken over."""
        if self._mode == "cluster":
            self.close()

    def _round(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, of a single try; a connection with answers left in it is closed."""
        if self._mode == "server":
            return self._own().answers(commands)
        by_pool: dict[Any, list[int]] = {}
        for number, command in enumerate(commands):
            by_pool.setdefault(self._pool(command), []).append(number)
        answers: list[Any] = [None] * len(commands)
        with contextlib.ExitStack() as stack:
            connections = [
                self._sent(stack, pool, [commands[number] for number in numbers]) for pool, numbers in by_pool.items()
            ]
            for connection, numbers in zip(connections, by_pool.values(), strict=True):
                for number in numbers:
                    answers[number] = connection.read_response()
        return answers

    def _sent(self, stack: contextlib.ExitStack, pool: Any, commands: Sequence[Command]) -> Any:
        """A connection to which the commands have gone; it goes back to its pool when the stack is left."""
        connection = pool.get_connection()
        stack.callback(pool.release, connection)
        stack.push(lambda kind, *_: connection.disconnect() if kind else None)
        connection.send_packed_command(connection.pack_commands(commands))
        return connection

    def _own(self) -> _Own:
        """This thread's connection: to lend one for every read costs as much as the rest of it."""
        own: _Own | None = getattr(self._held, "own", None)
        if own is None or own.process != os.getpid():
            pool = self._redis.connection_pool
            own = self._held.own = _Own(pool, pool.get_connection())
        return own

    def _pool(self, command: Command) -> Any:
        node = self._redis.get_node_from_key(command[3] if command[0] == "EVAL" else command[1])
        return self._redis.get_redis_connection(node).connection_pool


def _silent(error: Exception) -> StoreError:
    return StoreError("the online store", "a Redis server that answers", f"{type(error).__name__}: {error}")
