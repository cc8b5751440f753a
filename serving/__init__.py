"""Request to ranked items and scores, over HTTP.

In: requests; the online store and the registry. Out: answers that name the version and the age of their features.
"""

__all__ = ["app", "config", "server", "settings"]
