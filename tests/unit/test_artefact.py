"""The model artefact: what is saved is what is loaded, and nothing else is ever loaded."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.tree import DecisionTreeClassifier

from features.definitions.repo import load_repo
from features.errors import ArtefactError
from features.hashing import hash_texts
from models.folder import MANIFEST, ViewInputs
from models.recommender.artefact import CANDIDATES, RANKER, Artefact, Manifest, load, save
from models.recommender.pairs import Query
from models.recommender.scoring import PAIR_FEATURES
from models.recommender.tables import CandidateTables, SparseRows

ITEMS = ("apple", "bread", "cheese", "dates", "eggs")
USER, ITEM = ("user_a", "user_b"), ("item_a",)


def sparse(*rows: dict[int, float]) -> SparseRows:
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    column = np.array([place for row in rows for place in row], dtype=np.int32)
    return SparseRows(starts, column, np.array([w for row in rows for w in row.values()], dtype=np.float32))


def tables() -> CandidateTables:
    histories = sparse({0: 3, 1: 1}, {2: 1})
    users = hash_texts(pa.array(["anna", "bert"]))
    order = np.argsort(users)
    if order[0]:
        histories = sparse({2: 1}, {0: 3, 1: 1})
    return CandidateTables(
        items=ITEMS,
        neighbours=sparse({1: 0.5, 2: 0.25}, {0: 0.5}, {3: 0.75}, {}, {}),
        popular=np.array([5, 4, 3, 2, 1], dtype=np.float32),
        trending=np.array([0, 0, 0, 0, 0.5], dtype=np.float32),
        users=users[order],
        histories=histories,
        own_count=histories.weight,
        own_last_ms=np.array([10, 20, 30], dtype=np.int64),
    )


def manifest() -> Manifest:
    return Manifest(
        name="groceries",
        created_ms=2_000,
        as_of_ms=1_000,
        target=("purchase",),
        items=len(ITEMS),
        user=ViewInputs(view="user_view", schema_hash="00" * 8, names=USER),
        item=ViewInputs(view="item_view", schema_hash="11" * 8, names=ITEM),
        metrics={"ndcg_at_10": 0.25},
    )


def fitted(columns: int = len(PAIR_FEATURES) + 3) -> HistGradientBoostingClassifier:
    """A ranker that likes a high item_a (the last input), with some values missing."""
    inputs = np.random.default_rng(7).random((400, columns))
    inputs[::9, 2] = np.nan
    return HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(inputs, inputs[:, -1] > 0.5)


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return Artefact(manifest(), tables(), fitted())


@pytest.fixture
def saved(artefact, tmp_path) -> tuple[Path, str]:
    return tmp_path / "model", save(artefact, tmp_path / "model")


def asked(artefact: Artefact):
    item_matrix = np.array([[0.1], [0.2], [np.nan], [0.9], [0.3]])
    return artefact.recommend(["cheese"], np.array([1.0, np.nan]), item_matrix, 4, user="anna", as_of=5_000)


def test_what_is_loaded_answers_just_as_what_was_saved(artefact, saved):
    folder, digest = saved
    loaded = load(folder, digest)
    assert asked(loaded) == asked(artefact)
    assert loaded.manifest.model_copy(update={"files": {}}) == artefact.manifest
    assert set(loaded.manifest.files) == {CANDIDATES, RANKER}
    np.testing.assert_array_equal(loaded.tables.users, artefact.tables.users)
    assert loaded.similar("apple", 2) == artefact.similar("apple", 2)


def test_a_model_without_a_ranker_blends_its_candidates(tmp_path, artefact):
    save(replace(artefact, ranker=None), tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.ranker is None
    assert [one.item_id for one in loaded.recommend([], None, None, 2, user="anna")] == ["apple", "bread"]


def test_saving_never_writes_over_a_folder_and_leaves_nothing_half_written(artefact, saved, tmp_path):
    with pytest.raises(ArtefactError, match="does not exist yet"):
        save(artefact, saved[0])
    with pytest.raises(ArtefactError, match="DecisionTreeClassifier"):
        save(replace(artefact, ranker=DecisionTreeClassifier().fit([[0], [1]], [0, 1])), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MANIFEST, CANDIDATES, RANKER])
def test_a_missing_file_is_named(saved, name):
    (saved[0] / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        load(*saved)


@pytest.mark.parametrize("name", [MANIFEST, CANDIDATES, RANKER])
@pytest.mark.parametrize("place", [0, 0.5, 0.999])
def test_one_changed_bit_is_noticed_and_its_file_named(saved, name, place):
    path = saved[0] / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=name):
        load(*saved)


@pytest.mark.parametrize("name", [MANIFEST, CANDIDATES, RANKER])
def test_a_file_that_was_cut_short_is_named(saved, name):
    path = saved[0] / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtefactError, match=name):
        load(*saved)


def resealed(folder: Path) -> None:
    """The manifest says what the files are now: what somebody would do who means harm."""
    import hashlib

    text = json.loads((folder / MANIFEST).read_text())
    for name in text["files"]:
        content = (folder / name).read_bytes()
        text["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / MANIFEST).write_text(json.dumps(text))


def test_files_that_were_exchanged_together_with_the_manifest_are_noticed_by_the_registered_digest(saved):
    (saved[0] / CANDIDATES).write_bytes(b"other")
    resealed(saved[0])
    with pytest.raises(ArtefactError, match=MANIFEST):
        load(*saved)


@pytest.mark.parametrize("content", [b"", b"other", b"PK\x05\x06" + bytes(18)])
@pytest.mark.parametrize("name", [CANDIDATES, RANKER])
def test_a_foreign_file_is_refused_even_when_the_manifest_names_it(saved, name, content):
    (saved[0] / name).write_bytes(content)
    resealed(saved[0])
    with pytest.raises(ArtefactError, match=name):
        load(saved[0])


def test_pickled_objects_among_the_candidates_are_refused(saved):
    arrays = dict(np.load(saved[0] / CANDIDATES))
    np.savez(saved[0] / CANDIDATES, **{**arrays, "items": np.array(list(ITEMS), dtype=object)})
    resealed(saved[0])
    with pytest.raises(ArtefactError, match=f"{CANDIDATES}.*allow_pickle"):
        load(saved[0])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("popular", np.zeros(4, dtype=np.float32)),
        ("popular", np.zeros(5)),
        ("neighbour_items", np.array([1, 2, 0, 99], dtype=np.int32)),
        ("neighbour_starts", np.array([0, 3, 2, 4, 4, 4])),
        ("own_last_ms", np.zeros((3, 1), dtype=np.int64)),
        ("users", np.zeros(1, dtype=np.uint64)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(saved, name, array):
    arrays = dict(np.load(saved[0] / CANDIDATES))
    np.savez(saved[0] / CANDIDATES, **{**arrays, name: array})
    resealed(saved[0])
    with pytest.raises(ArtefactError, match=CANDIDATES):
        load(saved[0])


# --- foreign types --------------------------------------------------------------------------------------------------


def rewritten(path: Path, change) -> None:
    """The skops file with another schema."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(content["schema.json"])
    change(schema)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**content, "schema.json": json.dumps(schema)}.items():
            archive.writestr(name, data)


def test_a_ranker_of_another_type_is_refused_by_its_name_though_skops_trusts_it(saved):
    import skops.io

    skops.io.dump(DecisionTreeClassifier().fit([[0], [1]], [0, 1]), saved[0] / RANKER)
    resealed(saved[0])
    with pytest.raises(ArtefactError, match=r"ranker\.skops.*DecisionTreeClassifier"):
        load(saved[0])


@pytest.mark.parametrize(
    ("kind", "module", "loader"),
    [
        ("function", "builtins", "FunctionNode"),
        ("system", "posix", "TypeNode"),
        ("dict", "builtins", "OperatorFuncNode"),
        ("str", "builtins", "MethodNode"),
    ],
)
def test_a_hidden_type_or_way_of_building_is_refused(saved, kind, module, loader):
    def hide(schema):
        schema["content"]["hidden"] = [{"__class__": kind, "__module__": module, "__loader__": loader, "content": {}}]

    rewritten(saved[0] / RANKER, hide)
    resealed(saved[0])
    with pytest.raises(ArtefactError, match=rf"ranker\.skops.*{module}\.{kind}"):
        load(saved[0])


def test_a_ranker_of_other_inputs_is_refused(saved, tmp_path):
    other = Artefact(manifest().model_copy(update={"item": ViewInputs(view="i", schema_hash="", names=())}), tables())
    save(replace(other, ranker=fitted(4)), tmp_path / "other")
    with pytest.raises(ArtefactError, match=f"{len(PAIR_FEATURES) + 2} inputs"):
        load(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.update(format=2), "format"),
        (lambda text: text.pop("items"), "items"),
        (lambda text: text.update(more=1), "more"),
        (lambda text: text["user"].update(names=3), "user.names"),
        (lambda text: text.update(pair_features=["other"]), "pair features"),
        (lambda text: text["files"].update({"../secret": {"sha256": "", "size": 0}}), "files"),
        (lambda text: text["files"].pop(CANDIDATES), "files"),
        (lambda text: text.update(items=4), "4 items"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused_at_the_place_where_it_does(saved, change, named):
    text = json.loads((saved[0] / MANIFEST).read_text())
    change(text)
    (saved[0] / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(ArtefactError, match=named):
        load(saved[0])


def test_an_artefact_can_be_moved(saved, tmp_path):
    shutil.move(saved[0], tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", saved[1]).items == ITEMS


# --- answers --------------------------------------------------------------------------------------------------------


def test_the_ranker_decides_the_order_and_each_item_says_where_it_came_from(artefact):
    ranked = asked(artefact)
    assert ranked[0].item_id == "dates"
    assert {one.item_id: one.source for one in ranked}["dates"] == "similar"
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    sources = {one.item_id: one.source for one in artefact.recommend(["cheese"], None, None, 5, user="anna")}
    assert sources == {
        "apple": "repeat",
        "bread": "repeat",
        "cheese": "repeat",
        "dates": "similar",
        "eggs": "trending",
    }


def test_nothing_is_recommended_twice_and_what_is_excluded_is_not_recommended(artefact):
    names = [one.item_id for one in artefact.recommend(["cheese", "cheese"], None, None, 9, exclude=["apple", "x"])]
    assert sorted(names) == ["bread", "cheese", "dates", "eggs"]


def test_what_the_user_has_seen_can_be_excluded(artefact):
    assert artefact.seen("anna", ["eggs"]) == ["eggs", "apple", "bread"]
    assert artefact.seen("nobody") == []


def test_the_callers_items_are_ranked_and_those_that_the_model_does_not_know_left_out(artefact):
    ranked = artefact.recommend([], None, None, 9, among=["eggs", "unheard of", "apple", "eggs"])
    assert sorted(one.item_id for one in ranked) == ["apple", "eggs"]
    assert {one.source for one in ranked} == {"asked"}


def test_a_user_of_whom_nothing_is_known_gets_an_answer_that_is_not_called_personal(artefact):
    assert not artefact.knows("nobody", ["unheard of"])
    assert not artefact.knows(None)
    assert artefact.knows("anna")
    assert artefact.knows(None, ["eggs"])
    ranked = artefact.recommend(["unheard of"], None, None, 5, user="nobody")
    assert len(ranked) == 5
    assert {one.source for one in ranked} <= {"popular", "trending"}


def test_the_plain_lists_need_nothing_but_the_model(artefact):
    popular, trending = artefact.tables.most_popular, artefact.tables.most_trending
    assert [artefact.items[at] for at in popular[:3]] == ["apple", "bread", "cheese"]
    assert [artefact.items[at] for at in trending] == ["eggs"]
    assert [(one.item_id, one.score) for one in artefact.similar("apple", 5)] == [("bread", 0.5), ("cheese", 0.25)]
    assert artefact.similar("unheard of", 5) == []


@pytest.mark.parametrize(("user", "items"), [(np.zeros(3), np.zeros((5, 1))), (np.zeros(2), np.zeros((4, 1)))])
def test_features_of_another_shape_are_refused(artefact, user, items):
    with pytest.raises(ArtefactError, match="groceries"):
        artefact.recommend([], user, items, user="anna")


def test_retrieval_knows_a_user_by_the_hash_of_the_key_alone(artefact):
    found = artefact.retrieve(Query("anna", (), 110))
    own = found.pairs[:, PAIR_FEATURES.index("own_count")]
    assert sorted(found.indices[own > 0].tolist()) == [0, 1]


def test_a_model_of_other_definitions_is_refused_with_the_view_that_differs(artefact):
    views = load_repo(Path(__file__).resolve().parents[2] / "feature_repo").views
    with pytest.raises(ArtefactError, match="user_view"):
        artefact.check_views(views)
    view = views["user_activity"]
    inputs = ViewInputs(view=view.name, schema_hash=f"{view.schema_hash:016x}", names=view.names[:3])
    same = artefact.manifest.model_copy(update={"user": inputs, "item": inputs})
    replace(artefact, manifest=same).check_views(views)


def test_a_user_of_whom_nothing_is_known_is_answered_by_popularity_alone_and_others_by_the_ranker(artefact, tmp_path):
    items = np.array([[0.9], [0.1], [0.5], [0.2], [0.3]])
    first = np.array([1, 5, 4, 2, 3], dtype=np.float32)
    model = replace(artefact, tables=replace(artefact.tables, first=first))
    answer = model.recommend((), None, items)
    assert [item.item_id for item in answer] == ["bread", "cheese", "eggs", "dates", "apple"]
    assert all(0 < item.score < 1 for item in answer)
    row = np.array([0.5, np.nan])
    for recent, user_row, user in ((("apple",), None, None), ((), row, None), ((), None, "anna")):
        others = (each.recommend(recent, user_row, items, user=user) for each in (model, artefact))
        assert next(others) == next(others)
    assert load(tmp_path / "m", save(model, tmp_path / "m")).recommend((), None, items) == answer
