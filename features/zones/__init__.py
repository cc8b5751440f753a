"""What the clocks of time zones show.

In: epoch ms, or local times, and the IANA name of a zone. Out: the other of the two (``local_ms``, ``utc_ms``).
"""

from features.zones.clocks import local_ms, utc_ms

__all__ = ["local_ms", "utc_ms"]
