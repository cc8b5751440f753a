"""Golden answers of a recommender: queries that it answers as on the day it was made, or it does not serve.

The queries are made of the artefact's own items and of numbers from a formula, so that they name no user and take a few
hundred bytes. A library of another version that scores differently, or a ranker that fails, is found before the first
request.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from features.errors import ArtefactError
from models.golden import TOLERANCE, made_up
from models.recommender.artefact import Artefact, Golden, load
from models.recommender.pairs import Query
from models.recommender.retrieval import best_first

QUERIES, K = 3, 10


def goldens_of(artefact: Artefact) -> tuple[Golden, ...]:
    """The artefact's answers to QUERIES queries. Raises ArtefactError where it has none."""
    return tuple(Golden(recent=recent, answer=_answer(artefact, recent)) for recent in _queries(artefact))


def open_recommender(folder: Path, digest: str | None, *, trusted: bool) -> Artefact:
    """The artefact of a folder, verified and tried out; ArtefactError otherwise (see ``load``)."""
    artefact = load(folder, digest, trusted=trusted)
    try_out(artefact)
    return artefact


def try_out(artefact: Artefact) -> None:
    """Passes when the artefact answers, with finite scores, and as it did when it was made.

    Answers may differ by TOLERANCE, a share of the score or absolute, whichever is more; ArtefactError says what does.
    """
    for recent in _queries(artefact):
        _answer(artefact, recent)
    for golden in artefact.manifest.golden:
        got = _answer(artefact, golden.recent)
        if not _same(got, golden.answer):
            required = f"the answer that it gave when it was made to {list(golden.recent)}: {_text(golden.answer)}"
            raise ArtefactError(_where(artefact), required, _text(got), "Train anew.")


def _queries(artefact: Artefact) -> list[tuple[str, ...]]:
    """The recent items of each query: none, then one popular item each."""
    popular = artefact.tables.most_popular[: QUERIES - 1].tolist()
    return [(), *((artefact.items[index],) for index in popular)]


def _answer(artefact: Artefact, recent: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    manifest = artefact.manifest
    try:
        candidates = artefact.retrieve(Query(None, recent, manifest.as_of_ms))
        user = made_up(np.zeros(1, dtype=np.int64), len(manifest.user.names))[0]
        scores = artefact.score(candidates, user, made_up(candidates.indices, len(manifest.item.names)))
    except Exception as error:  # a model may fail in any way at all
        got = f"{type(error).__name__}: {error}"
        raise ArtefactError(_where(artefact), "an answer", got, "Train anew.") from error
    if not np.isfinite(scores).all():
        raise ArtefactError(_where(artefact), "finite scores", "NaN or infinity", "Train anew.")
    return tuple((item.item_id, item.score) for item in best_first(artefact.tables, candidates, scores, K))


def _same(got: tuple[tuple[str, float], ...], wanted: tuple[tuple[str, float], ...]) -> bool:
    scores, wanted_scores = (np.array([score for _, score in answer]) for answer in (got, wanted))
    same_items = [item for item, _ in got] == [item for item, _ in wanted]
    return same_items and bool(np.allclose(scores, wanted_scores, rtol=TOLERANCE, atol=TOLERANCE))


def _where(artefact: Artefact) -> str:
    return f"model '{artefact.manifest.name}'"


def _text(answer: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{item} {score:.12g}" for item, score in answer[:3]) or "nothing"
