"""Random members of many classes of odd records: each gets its verdict, and its neighbours are as without it."""

from __future__ import annotations

from random import Random

import numpy as np
import pyarrow as pa
import pytest
from poison_records import CLASSES, COUNTED, REFUSED, members
from shop_project import NOW, repo_of

from features.definitions import FeatureRepo
from features.events import Parsed, Records, Verdict, parse
from features.formats import read_events

SIZE = 100


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> FeatureRepo:
    return repo_of(tmp_path_factory.mktemp("poison") / "feature_repo", "shop")


def parsed(repo: FeatureRepo, values: list[bytes | None]) -> Parsed:
    n = len(values)
    places = np.full(n, NOW), np.zeros(n, np.int32), np.arange(n, dtype=np.int64)
    return parse(Records(pa.array(values, pa.binary()), *places), repo.streams["shop"], keys=repo.keys_of("shop"))


@pytest.mark.parametrize("name", CLASSES)
def test_members_get_the_verdict_of_their_class_and_neighbours_stay_as_they_are(
    repo: FeatureRepo, name: str, seed: int
) -> None:
    odd, good = members(name, SIZE, Random(seed), NOW), members("nothing optional", SIZE, Random(seed + 1), NOW)
    alone = [parsed(repo, [value]) for value in odd]
    if name in REFUSED:
        assert {one.verdicts[0] for one in alone} == {Verdict.DEAD_LETTER}
    if name in COUNTED:
        assert {one.verdicts[0] for one in alone} == {Verdict.VALID}, alone[0].reasons
    mixed = parsed(repo, [value for pair in zip(good, odd, strict=True) for value in pair])
    assert mixed.verdicts[::2].tolist() == [Verdict.VALID] * SIZE
    assert mixed.verdicts[1::2].tolist() == [int(one.verdicts[0]) for one in alone]
    assert mixed.reasons.to_pylist()[1::2] == [one.reasons[0].as_py() for one in alone]
    kept = mixed.events.filter(pa.array(mixed.rows % 2 == 0)).drop_columns(["offset"])
    assert kept.to_pylist() == parsed(repo, good).events.drop_columns(["offset"]).to_pylist()


def test_lines_of_a_file_get_the_verdicts_of_messages(repo: FeatureRepo, tmp_path, seed: int) -> None:
    rng = Random(seed)
    values = [value for name in CLASSES for value in members(name, SIZE, rng, NOW)]
    lines = [value for value in values if value and not {b"\n"[0], b"\r"[0]} & set(value)]
    path = tmp_path / "shop.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    read = [one for _, one in read_events(path, "jsonl", repo.streams, keys=repo.keys_of, stream="shop")]
    verdicts = [verdict for one in read for verdict in one.verdicts.tolist()]
    events = pa.concat_tables([one.events for one in read])
    expected = parsed(repo, lines)
    assert verdicts == expected.verdicts.tolist()
    columns = list(repo.streams["shop"].dtypes)
    assert events.select(columns).equals(expected.events.select(columns))
