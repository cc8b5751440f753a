"""JSON messages of a stream, decoded a whole batch at a time.

In: bytes. Out: decoded fields (``messages``).
"""

__all__ = ["messages"]
