"""The online store on a Redis server or cluster: state rows and pending events.

In: a connection and the port's calls (port.py). Out: rows, markers and pending events.
"""

from features.online_store.redis.erasure import RedisErasure
from features.online_store.redis.rows import RedisRows

__all__ = ["RedisErasure", "RedisRows"]
