"""Items by their attributes: alike where they share words and numbers, known before anybody took them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import ArtefactError
from models.folder import ViewInputs
from models.recommender import (
    Artefact,
    CandidateTables,
    Content,
    ContentEncoder,
    ContentRows,
    Factors,
    Manifest,
    Query,
    SparseRows,
    load,
    save,
    with_items,
)
from models.recommender.artefact import CANDIDATES

ITEMS = ("red mug", "blue mug", "red lamp", "blue lamp", "desk")
NEITHER = ViewInputs(view="v", schema_hash="00" * 8, names=())


def columns(*titles: str | None, price: float | None = 5.0) -> dict[str, pa.Array]:
    return {"title": pa.array(titles, pa.string()), "price": pa.array([price] * len(titles), pa.float64())}


def content(attributes: dict[str, pa.Array], items: int) -> Content:
    encoder = ContentEncoder.fit(attributes, items)
    return Content(encoder, ContentRows(encoder.rows(attributes, items)))


def empty(rows: int) -> SparseRows:
    return SparseRows(np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def artefact() -> Artefact:
    """Five items with vectors of their two words: a mug has (1, 0), a lamp (0, 1), the desk nothing."""
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], dtype=np.float32)
    tables = CandidateTables(
        items=ITEMS,
        neighbours=SparseRows(np.array([0, 1, 1, 1, 1, 1]), np.array([2], np.int32), np.array([0.5], np.float32)),
        popular=np.arange(5, 0, -1, dtype=np.float32),
        trending=np.array([0, 0, 0, 0, 0.5], dtype=np.float32),
        users=np.empty(0, np.uint64),
        histories=empty(0),
        own_count=np.empty(0, np.float32),
        own_last_ms=np.empty(0, np.int64),
        factors=Factors(vectors, 0.1, 5.0),
    )
    known = content(columns(*ITEMS), len(ITEMS))
    row, token, weight = known.known_entries(known.own.rows)
    dense = np.zeros((len(ITEMS), len(known.encoder.tokens)))
    dense[row, token] = weight
    projection = np.linalg.lstsq(dense, vectors - vectors.mean(axis=0), rcond=None)[0].astype(np.float32)
    manifest = Manifest(name="m", created_ms=1, as_of_ms=1, target=("view",), items=5, user=NEITHER, item=NEITHER)
    return Artefact(manifest, tables, None, replace(known, projection=projection, mean=vectors.mean(axis=0)))


def with_later(model: Artefact, items: list[str], *titles: str | None) -> Artefact:
    """The model with later items of these titles."""
    assert model.content is not None
    return with_items(model, items, ContentRows(model.content.encoder.rows(columns(*titles), len(items))))


def test_numbers_that_no_float64_is_are_attributes_like_others() -> None:
    numbers = {"ean": pa.array([2**53 + 1, 2**53 + 3, 7, None], pa.int64())}
    assert len(ContentEncoder.fit(numbers, 4).rows(numbers, 4).starts) == 5


def test_items_are_alike_by_their_words_whatever_their_case_and_punctuation():
    known = content(columns("Red  MUG!", "red-mug", "red lamp", "a desk", None), 5)
    likeness = known.likeness(0)
    assert likeness[0] == pytest.approx(1.0)
    assert likeness[1] == pytest.approx(1.0)
    assert 0 < likeness[3] < likeness[2] < 0.9  # the desk by its price alone


def test_a_word_in_one_attribute_is_not_the_word_in_another():
    attributes = {"title": pa.array(["pine", None]), "brand": pa.array([None, "pine"])}
    assert content(attributes, 2).likeness(0)[1] == 0


def test_near_numbers_are_more_alike_than_far_ones():
    attributes = {"price": pa.array(np.arange(160.0))}
    likeness = content(attributes, 160).likeness(12)
    assert likeness[11] > likeness[25] > likeness[150] == 0


def test_an_item_without_attributes_is_like_nothing():
    known = content(columns("red mug", None, price=None), 2)
    assert known.likeness(1).tolist() == [0, 0]


TEXTS = st.lists(st.one_of(st.none(), st.text(alphabet="ab é1-", max_size=12)), min_size=1, max_size=12)


@given(TEXTS, TEXTS)
def test_rows_have_length_1_or_nothing_and_likeness_is_their_product(learnt, later):
    encoder = ContentEncoder.fit({"title": pa.array(learnt, pa.string())}, len(learnt))
    rows = encoder.rows({"title": pa.array(later, pa.string())}, len(later))
    tokens, at = np.unique(rows.column, return_inverse=True)
    dense = np.zeros((len(later), len(tokens)))
    dense[np.repeat(np.arange(len(later)), np.diff(rows.starts)), at] = rows.weight
    lengths = np.linalg.norm(dense, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    known = Content(encoder, ContentRows(rows))
    for item in range(len(later)):
        assert np.allclose(known.likeness(item), dense @ dense[item], atol=1e-5)


def test_a_later_item_is_retrieved_and_ranked_by_the_vector_of_its_words():
    model = with_later(artefact(), ["green mug", "green lamp"], "green mug", "green lamp")
    assert model.tables.factors is not None
    vectors = model.tables.factors.items[5:]
    assert vectors[0, 0] > vectors[0, 1]
    assert vectors[1, 1] > vectors[1, 0]
    only_later = np.isin(model.items, ["green mug", "green lamp"])
    for recent, best in (("red mug", "green mug"), ("blue lamp", "green lamp")):
        found = model.retrieve(Query(None, (recent,), 1), allowed=only_later)
        scores = found.pairs[:, model.manifest.pair_features.index("factor_score")]
        assert model.items[found.indices[np.argmax(scores)]] == best
        ranked = model.recommend((recent,), None, None, allowed=only_later)
        assert {one.source for one in ranked} <= {"content", "popular"}
        assert "content" in {one.source for one in ranked if one.item_id == best}


def test_a_model_with_later_items_answers_for_its_own_as_before():
    before = artefact()
    after = with_later(before, ["green mug", "x"], "green mug", None)
    own = np.isin(after.items, before.items)
    for recent in ([], ["red mug"], ["desk", "blue lamp"]):
        assert after.recommend(recent, None, None, allowed=own) == before.recommend(recent, None, None)
        assert after.similar("red mug", 3, allowed=own) == before.similar("red mug", 3)
    for name in ("index", "popular_rank", "most_popular", "most_trending", "most_lasting"):
        derived = getattr(CandidateTables(**{f: getattr(after.tables, f) for f in FIELDS}), name)
        assert np.array_equal(getattr(after.tables, name), derived), name


FIELDS = tuple(CandidateTables.__dataclass_fields__)


def test_similar_items_come_from_the_first_source_that_has_any_and_scores_fall():
    model = with_later(artefact(), ["green mug"], "green mug")
    ranked = model.similar("red mug", 5)
    assert [(one.item_id, one.source) for one in ranked[:2]] == [("red lamp", "similar"), ("blue mug", "factor")]
    assert ranked[2].item_id == "green mug"
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert model.similar("green mug", 1)[0].source == "content"
    assert model.similar("green mug", 9, exclude=["red mug"])[0].item_id == "blue mug"
    assert model.similar("unheard of", 5) == []
    assert "green mug" not in {one.item_id for one in model.similar("green mug", 9)}
    only = np.isin(model.items, ["green mug", "desk"])
    assert model.similar("red mug", 5, allowed=only)[0].item_id == "green mug"


def test_what_is_known_of_attributes_is_saved_and_loaded(tmp_path):
    model = artefact()
    loaded = load(tmp_path / "m", save(model, tmp_path / "m"))
    one, other = (with_later(each, ["green mug"], "green mug") for each in (model, loaded))
    assert one.similar("green mug", 5) == other.similar("green mug", 5)
    assert one.recommend(["red mug"], None, None) == other.recommend(["red mug"], None, None)


def test_an_artefact_without_attributes_loads_and_stays_as_it_is(tmp_path):
    plain = replace(artefact(), content=None)
    loaded = load(tmp_path / "m", save(plain, tmp_path / "m"))
    assert loaded.content is None
    assert with_items(loaded, ["green mug"], artefact().content.own.picked(np.array([0]))) is loaded


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("content_columns", lambda array: array + (1 << 20)),
        ("content_tokens", lambda array: array[::-1].copy()),
        ("content_idf", lambda array: array[:-1]),
        ("content_projection", lambda array: array[:-1]),
        ("content_starts", lambda array: array + 1),
        ("content_edges", lambda array: array * np.nan),
    ],
)
def test_tables_of_attributes_that_do_not_agree_are_refused(tmp_path, name, wrong):
    from models.recommender.arrays import candidate_arrays, item_content

    arrays = candidate_arrays(artefact().tables, artefact().content)
    assert item_content(arrays, tmp_path / CANDIDATES) is not None
    with pytest.raises(ArtefactError):
        item_content(arrays | {name: wrong(arrays[name])}, tmp_path / CANDIDATES)
