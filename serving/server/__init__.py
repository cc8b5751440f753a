"""The servers in front of the application: a Ray of our own, and HAProxy before its replicas.

In: settings. Out: an address that answers.
"""

from serving.server.ray_server import answering, served

__all__ = ["answering", "served"]
