"""Responses to Feast's callers: features as Arrow columns; Feast's protobuf is made only on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from features.rows import FeatureMatrix, Status

FIELDS = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "double", pa.bool_(): "bool"}

MOST_EXACT = 2**53
"""Every integer up to this is a float64."""

STATUSES = {
    Status.PRESENT: FieldStatus.PRESENT,
    Status.OUTSIDE_MAX_AGE: FieldStatus.OUTSIDE_MAX_AGE,
    Status.NOT_FOUND: FieldStatus.NOT_FOUND,
}


@dataclass(frozen=True)
class ResponsePart:
    """The requested features of a view: name in the response → column of the matrix."""

    matrix: FeatureMatrix
    names: Mapping[str, int]


class PackedResponse(OnlineResponse):
    """An OnlineResponse without protobuf; ``parts`` has the features as Arrow columns, for our own callers."""

    def __init__(self, entities: Mapping[str, Sequence[Any]], parts: Sequence[ResponsePart]) -> None:
        self._entities = {name: list(values) for name, values in entities.items()}
        self._feature_types = {}
        self.parts = parts

    @cached_property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]  # Feast sets it in __init__
        """Feast's protobuf of the response, made on first use."""
        response = GetOnlineFeaturesResponse()
        for name, values in self._entities.items():
            response.metadata.feature_names.val.append(name)
            count = len(values)
            response.results.add(
                values=python_values_to_proto_values(values),
                statuses=[FieldStatus.PRESENT] * count,
                event_timestamps=[Timestamp()] * count,
            )
        for part in self.parts:
            add_part(response, part)
        return response

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Every entity column and feature as a list, None for no value; times are in seconds."""
        return {
            name: list(column) if isinstance(column, list) else column.to_pylist()
            for name, column in self._columns(include_event_timestamps)
        }

    def to_arrow(self, include_event_timestamps: bool = False) -> pa.Table:
        """Every entity column and feature as an Arrow column of the feature's own dtype."""
        return pa.table({name: pa.array(column) for name, column in self._columns(include_event_timestamps)})

    def to_df(self, include_event_timestamps: bool = False) -> pd.DataFrame:
        """As to_dict(); no integer is rounded."""
        return with_exact_integers(super().to_df(include_event_timestamps), self.to_arrow(include_event_timestamps))

    def _columns(self, with_times: bool) -> Iterator[tuple[str, list[Any] | pa.Array]]:
        for name, values in self._entities.items():
            yield name, values
            if with_times:
                yield name + TIMESTAMP_POSTFIX, [0] * len(values)
        for part in self.parts:
            seconds = pa.array(part.matrix.newest_event // 1000)
            for name, column in part.names.items():
                yield name, part.matrix.columns[column]
                if with_times:
                    yield name + TIMESTAMP_POSTFIX, seconds


def exact_frame(table: pa.Table) -> pd.DataFrame:
    """The table in pandas; no integer is rounded."""
    return with_exact_integers(table.to_pandas(), table)


def with_exact_integers(frame: pd.DataFrame, table: pa.Table) -> pd.DataFrame:
    """The frame of this table, where integers beyond 2^53 beside nulls, which pandas makes floats, are Int64."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(column.type) and column.null_count:
            lowest, highest = pc.min_max(column).as_py().values()
            if lowest is not None and max(highest, -lowest) > MOST_EXACT:
                frame[name] = column.to_pandas(types_mapper={column.type: pd.Int64Dtype()}.get)
    return frame


def add_part(response: GetOnlineFeaturesResponse, part: ResponsePart) -> None:
    """Adds a feature vector for each of the part's features."""
    times = [Timestamp() for _ in part.matrix.newest_event]
    for time, newest in zip(times, part.matrix.newest_event.tolist(), strict=True):
        time.FromMilliseconds(newest)
    statuses = [STATUSES[Status(status)] for status in part.matrix.status.tolist()]
    for name, index in part.names.items():
        column = part.matrix.columns[index]
        response.metadata.feature_names.val.append(name)
        response.results.add(values=values_of(column), statuses=_with_nulls(statuses, column), event_timestamps=times)


def mark_outdated(vectors: Iterable[GetOnlineFeaturesResponse.FeatureVector]) -> None:
    """Changes Feast's NOT_FOUND to OUTSIDE_MAX_AGE for entities with an event time (see ordinary_views.read)."""
    for vector in vectors:
        for index, (status, time) in enumerate(zip(vector.statuses, vector.event_timestamps, strict=True)):
            if status == FieldStatus.NOT_FOUND and (time.seconds or time.nanos):
                vector.statuses[index] = FieldStatus.OUTSIDE_MAX_AGE


def _with_nulls(statuses: list[Any], column: pa.Array) -> list[Any]:
    """The statuses, with NULL_VALUE for the null features of PRESENT entities."""
    if not column.null_count:
        return statuses
    nulls = zip(statuses, column.is_null().to_pylist(), strict=True)
    return [FieldStatus.NULL_VALUE if null and status == FieldStatus.PRESENT else status for status, null in nulls]


def values_of(column: pa.Array) -> list[Value]:
    """Each value of a feature's column as a Feast Value, empty for null."""
    listed = pa.types.is_list(column.type)
    kind = FIELDS[column.type.value_type if listed else column.type]
    values = []
    for plain in column.to_pylist():
        value = Value()
        if plain is not None and listed:
            getattr(value, f"{kind}_list_val").val.extend(plain)
        elif plain is not None:
            setattr(value, f"{kind}_val", plain)
        values.append(value)
    return values
