"""The artefact of a recommender: training writes it, serving verifies and loads it. A folder of three files.

    manifest.json    the model's name, inputs in order, schema hashes, metrics, and the SHA-256 of the other files
    candidates.npz   plain arrays (see tables.CandidateTables); nothing in it is a pickled object
    ranker.skops     the ranker, of types that stand in our own list and of no others; absent where there is none
    own.zip          instead of it, a user's own MLflow model (see models/user_model.py)

The digest of manifest.json itself is what ``save`` returns, and the registry keeps it as the tag DIGEST_TAG of a model
version: a reader passes it to ``load``, so that nothing in the folder can change unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from features.arrays import Floats
from features.definitions import FeatureView
from features.errors import ArtefactError
from features.rows import FeatureMatrix
from models.artefact import check_views, load_classifier, read_manifest, save_artefact
from models.classifier_file import Scorer, scorer
from models.folder import MANIFEST, FileEntry, ViewInputs
from models.recommender.arrays import candidate_arrays, candidate_tables, item_content, read_arrays
from models.recommender.calibration import Calibration
from models.recommender.content import Content
from models.recommender.pairs import Query, blended
from models.recommender.retrieval import (
    Candidates,
    Ranked,
    RankingRequest,
    best_first,
    first_scores,
    ranker_inputs,
    retrieve,
)
from models.recommender.scoring import PAIR_FEATURES, ready
from models.recommender.similar import similar_items
from models.recommender.tables import CandidateTables
from models.registry import LoadedVersion
from models.user_model import OWN

CANDIDATES, RANKER = "candidates.npz", "ranker.skops"

LAYOUTS = ((CANDIDATES,), (CANDIDATES, RANKER), (CANDIDATES, OWN))
"""The sets of files beside the manifest."""


class Manifest(BaseModel):
    """The manifest of a recommender."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    """The layout of the folder."""
    name: str
    """The registered model's name."""
    created_ms: int
    """When training ended, epoch ms."""
    as_of_ms: int
    """The model knows what was known before this time, epoch ms."""
    target: tuple[str, ...]
    """The event types that it predicts."""
    items: int
    """The number of items that it knows."""
    user: ViewInputs
    """The user's features."""
    item: ViewInputs
    """Each item's features."""
    recent_feature: str | None = None
    """The user view's feature that lists its newest items (``recent`` of a request); None where the view has none."""
    pair_features: tuple[str, ...] = PAIR_FEATURES
    """Features of a user and an item together, the first inputs of the ranker."""
    calibration: Calibration | None = None
    """Calibrates the ranker's answers to probabilities; None leaves them as they are."""
    metrics: dict[str, float] = {}
    """Held-out metrics, such as ndcg_at_10 and popular_ndcg_at_10."""
    settings: dict[str, Any] = {}
    """Settings of the training."""
    golden: tuple[Golden, ...] = ()
    """Queries and its answers to them when it was made."""
    files: dict[str, FileEntry] = {}
    """The other files; ``save`` fills it in."""


@dataclass(frozen=True)
class Artefact:
    """A loaded model: pure functions over arrays in memory, safe to call from several threads."""

    manifest: Manifest
    tables: CandidateTables
    ranker: Any = None
    """A fitted classifier with predict_proba; None blends the candidates' own scores (see pairs.blended)."""
    content: Content | None = None
    """What is known of the items' attributes."""

    @property
    def items(self) -> tuple[str, ...]:
        """The item ids that the model knows: the order of an item matrix's rows."""
        return self.tables.items

    @cached_property
    def scorer(self) -> Scorer:
        """The ranker's answers, compiled where training fitted it (see classifier_file.scorer)."""
        return scorer(self.ranker)

    def knows(self, user: str | None, recent: Sequence[str] = ()) -> bool:
        """True when an answer would be personal: the user has a history here, or a recent item is known."""
        own = self.tables.user(user)
        return own.stop > own.start or len(self.tables.indices(recent)) > 0

    def recommend(  # noqa: PLR0913  # one parameter for each part of a query
        self,
        recent: Sequence[str],
        user_row: Floats | None,
        item_matrix: Floats | None,
        k: int = 10,
        *,
        user: str | None = None,
        as_of: int | None = None,
        exclude: Sequence[str] = (),
        among: Sequence[str] | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> list[Ranked]:
        """At most k items, best first, each once; only known ones of ``among`` unless that is None.

        An unknown user is no error: the candidates are then popular and trending items (see ``knows``).

        Args:
            recent: item ids, newest first: manifest.recent_feature of the user's features.
            user_row: manifest.user.names in order, NaN for null; None for a user without features.
            item_matrix: (len(items), manifest.item.names), NaN for null; None for items without features.
            user: the user's key text, by which its history in the model is found.
            as_of: epoch ms of the request; the model's own as_of unless given.
            exclude: item ids to leave out (``seen`` has those that the user knows).
            allowed: (len(items),) the items that may be candidates; None for all.

        Raises ArtefactError for a row or matrix of another shape than the manifest's.
        """
        query = Query(user, recent, as_of or self.manifest.as_of_ms)
        left_out = self.tables.indices(exclude)
        return self.answer(RankingRequest(query, user_row, item_matrix, among, allowed, k, left_out))

    def answer(self, request: RankingRequest) -> list[Ranked]:
        """``recommend`` of these arguments."""
        candidates = self.retrieve(request.query, request.among, request.allowed)
        if request.exclude is not None and len(request.exclude):
            candidates = candidates.only(~np.isin(candidates.indices, request.exclude))
        matrix = request.item_matrix
        rows = None if matrix is None else self._checked(matrix)[candidates.indices]
        # The ranker learns from users with a past; of others nothing is known but what is popular.
        scores = None if request.user_row is not None else first_scores(self.tables, candidates)
        if scores is None:
            scores = self.score(candidates, request.user_row, rows)
        return best_first(self.tables, candidates, scores, request.k)

    def retrieve(
        self, query: Query, among: Sequence[str] | None = None, allowed: NDArray[np.bool_] | None = None
    ) -> Candidates:
        """The candidates for one query."""
        return retrieve(self.tables, query, among, allowed)

    def score(self, candidates: Candidates, user_row: Floats | None, item_rows: Floats | None) -> Floats:
        """A score for each candidate, higher is better: the ranker's probability, or the blend without a ranker.

        Args:
            item_rows: (c, manifest.item.names), aligned with the candidates.
        """
        if not len(candidates) or self.ranker is None:
            return blended(candidates.pairs)
        user, item = self.manifest.user.names, self.manifest.item.names
        user_row = np.full(len(user), np.nan) if user_row is None else user_row
        item_rows = np.full((len(candidates), len(item)), np.nan) if item_rows is None else item_rows
        if user_row.shape != (len(user),) or item_rows.shape != (len(candidates), len(item)):
            required = f"{len(user)} user features, and {len(candidates)} × {len(item)} item features"
            raise ArtefactError(
                f"model '{self.manifest.name}'", required, f"shapes {user_row.shape} and {item_rows.shape}"
            )
        return self.chances(ranker_inputs(candidates, user_row, item_rows))

    def chances(self, inputs: Floats) -> Floats:
        """The probability that each row of the ranker's inputs is taken."""
        answers, calibration = self.scorer(inputs), self.manifest.calibration
        return answers if calibration is None else calibration.calibrated(answers)

    def seen(self, user: str | None, recent: Sequence[str] = ()) -> list[str]:
        """The recent items, then those of the user's history in the model."""
        own = self.tables.histories.column[self.tables.user(user)]
        return [*recent, *(self.items[index] for index in own.tolist())]

    def taken(self, user: str | None) -> list[str]:
        """The items that the user took as the target, by the model; all of the history where it does not tell."""
        own, visits = self.tables.user(user), self.tables.own_visits
        columns = self.tables.histories.column[own]
        return [self.items[index] for index in (columns if visits is None else columns[visits[own] > 0]).tolist()]

    def similar(
        self, item_id: str, k: int, exclude: Sequence[str] = (), allowed: NDArray[np.bool_] | None = None
    ) -> list[Ranked]:
        """At most k items similar to this one, by the sources of ``similar_items``; none for an unknown item."""
        return similar_items(self.tables, self.content, item_id, k, exclude, allowed)

    def likeness(self, items: Sequence[str]) -> Floats:
        """(i, i) the similarity of these items, 0 to 1, symmetric; 0 for an item that the model does not know."""
        known = np.array([item in self.tables.index for item in items], dtype=bool)
        indices = np.array([self.tables.index[item] for item in items if item in self.tables.index], dtype=np.int64)
        shares = self.tables.neighbours.between(indices, len(self.items))
        likeness = np.zeros((len(items), len(items)))
        likeness[np.ix_(known, known)] = np.maximum(shares, shares.T)
        return likeness

    def user_row(self, matrix: FeatureMatrix, row: int = 0) -> Floats:
        """One row of the user view's matrix as the ranker takes it."""
        by_name = dict(zip(matrix.names, matrix.columns, strict=True))
        values = (by_name[name][row].as_py() for name in self.manifest.user.names)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def item_matrix(self, matrix: FeatureMatrix) -> Floats:
        """The item view's matrix as the ranker takes it; its rows must be those of ``items``, in that order."""
        return self._checked(_numbers(matrix, self.manifest.item.names))

    def recent_items(self, matrix: FeatureMatrix, row: int = 0) -> list[str]:
        """The user's newest items in one row of the user view's matrix, newest first."""
        name = self.manifest.recent_feature
        if name is None:
            return []
        value = matrix.columns[matrix.names.index(name)][row].as_py()
        return [item for item in value or () if item is not None]

    def check_views(self, views: Mapping[str, FeatureView]) -> None:
        """Passes when the definitions are those that the model was trained on; ArtefactError names what differs."""
        check_views(self.manifest.name, (self.manifest.user, self.manifest.item), views)

    @cached_property
    def item_keys(self) -> pa.Array:
        """The item ids as an Arrow array: the keys by which the store is read for an item matrix."""
        return pa.array(self.items, pa.string())

    def _checked(self, matrix: Floats) -> Floats:
        required = (len(self.items), len(self.manifest.item.names))
        if matrix.shape != required:
            raise ArtefactError(f"model '{self.manifest.name}'", f"an item matrix of {required}", str(matrix.shape))
        return matrix


LoadedRecommender = LoadedVersion[Artefact]


def _numbers(matrix: FeatureMatrix, names: Sequence[str]) -> Floats:
    return matrix.to_numpy(names) if names else np.empty((len(matrix.status), 0))


def save(artefact: Artefact, directory: str | Path) -> str:
    """The artefact stands in a new folder, whole or not at all; returns the hex SHA-256 of its manifest.json.

    Raises ArtefactError when the folder exists already.
    """

    def write_tables(folder: Path) -> None:
        np.savez(folder / CANDIDATES, allow_pickle=False, **candidate_arrays(artefact.tables, artefact.content))

    manifest = artefact.manifest.model_copy(update={"items": len(artefact.items)})
    return save_artefact(directory, manifest, artefact.ranker, RANKER, write_tables)


def load(directory: str | Path, digest: str | None = None, *, trusted: bool = False) -> Artefact:
    """The artefact of a folder, after every byte of it was checked against its manifest.

    Args:
        directory: as ``save`` wrote it; files that the manifest does not name are not looked at.
        digest: hex SHA-256 that manifest.json must have (the DIGEST_TAG of the model version).
        trusted: whether a user's own ranker may run its code; one of training's runs none.

    Raises ArtefactError, which names the file, for one that is missing, damaged or foreign, and for a ranker that holds
    a type which is not in our list (before anything of it is built).
    """
    directory = Path(directory)
    manifest = read_manifest(directory, digest, Manifest.model_validate_json, LAYOUTS)
    if manifest.pair_features != PAIR_FEATURES:
        where, got = f"artefact file '{directory / MANIFEST}'", ", ".join(manifest.pair_features)
        raise ArtefactError(where, f"pair features {', '.join(PAIR_FEATURES)}", got, "Train anew.")
    arrays = read_arrays(directory / CANDIDATES)
    tables = candidate_tables(arrays, directory / CANDIDATES)
    if len(tables.items) != manifest.items:
        where = f"artefact file '{directory / CANDIDATES}'"
        raise ArtefactError(where, f"{manifest.items} items", f"{len(tables.items)}", "Train anew.")
    inputs = (*manifest.pair_features, *manifest.user.names, *manifest.item.names)
    ranker = load_classifier(directory, manifest, RANKER, inputs, trusted=trusted)
    artefact = Artefact(manifest, tables, ranker, item_content(arrays, directory / CANDIDATES))
    ready()
    _ = artefact.scorer, artefact.content and artefact.content.own.of_tokens  # ready before the first request
    return artefact


class Golden(BaseModel):
    """A query, and the answer to it when the artefact was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recent: tuple[str, ...]
    """The user's recent items, newest first."""
    answer: tuple[tuple[str, float], ...]
    """(item, score), best first."""
