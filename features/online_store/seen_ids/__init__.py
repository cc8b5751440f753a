"""Ids of events that were folded, kept in the online store to recognise repetitions.

In: the ids of a batch. Out: those that were there before, within the stream's horizon and the store's capacity.
"""

from features.online_store.seen_ids.blocks import Block
from features.online_store.seen_ids.index import index_of
from features.online_store.seen_ids.memory import Memory

__all__ = ["Block", "Memory", "index_of"]
