"""A batch's events shared out by entity: each entity's are in one share, so that one writer has its row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.columns import EventColumns
from features.definitions import FeatureView, Stream
from features.hashing import hash_texts


def shares(view: FeatureView, stream: Stream, events: pa.Table, count: int) -> dict[int, pa.Table]:
    """The stream's events by the share (0 … count - 1) of the view's entity, in their order; none without an entity."""
    keys = EventColumns(events, stream).entity_keys(view.entity)
    share = (hash_texts(keys) % np.uint64(count)).astype(np.int64)
    share[np.asarray(keys.is_null())] = -1
    return {one: events.filter(pa.array(share == one)) for one in np.unique(share[share >= 0]).tolist()}
