"""Questions that an artefact must answer before anybody else may ask it, and the answers that it gave when it was made.

The questions are made of the artefact's own items and of numbers that a formula gives, so that they name no user and
take a few hundred bytes. A library of another version that scores otherwise, or a ranker that fails, is found before
the first request.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from features.errors import ArtefactError
from models.golden import TOLERANCE, made_up
from models.recommender.artefact import Artefact, Golden, load
from models.recommender.pairs import Query
from models.recommender.retrieval import best_first

QUESTIONS, K = 3, 10


def goldens_of(artefact: Artefact) -> tuple[Golden, ...]:
    """The artefact's answers to QUESTIONS questions. Raises ArtefactError where it has none."""
    return tuple(Golden(recent=recent, answer=_answer(artefact, recent)) for recent in _questions(artefact))


def open_recommender(folder: Path, digest: str | None, *, trusted: bool) -> Artefact:
    """The artefact of a folder, whole and tried out; ArtefactError otherwise (see ``load``)."""
    artefact = load(folder, digest, trusted=trusted)
    try_out(artefact)
    return artefact


def try_out(artefact: Artefact) -> None:
    """Passes when the artefact answers, with finite scores, and as it did when it was made.

    Answers may differ by TOLERANCE, a share of the score or absolute, whichever is more; ArtefactError says what does.
    """
    for recent in _questions(artefact):
        _answer(artefact, recent)
    for golden in artefact.manifest.golden:
        got = _answer(artefact, golden.recent)
        if not _same(got, golden.answer):
            required = f"the answer that it gave when it was made to {list(golden.recent)}: {_text(golden.answer)}"
            raise ArtefactError(_where(artefact), required, _text(got), "Train anew.")


def _questions(artefact: Artefact) -> list[tuple[str, ...]]:
    """Of an item each that is popular, and of none."""
    places = artefact.tables.most_popular[: QUESTIONS - 1].tolist()
    return [(), *((artefact.items[place],) for place in places)]


def _answer(artefact: Artefact, recent: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    manifest = artefact.manifest
    try:
        candidates = artefact.retrieve(Query(None, recent, manifest.as_of_ms))
        user = made_up(np.zeros(1, dtype=np.int64), len(manifest.user.names))[0]
        scores = artefact.score(candidates, user, made_up(candidates.places, len(manifest.item.names)))
    except Exception as error:  # a model may fail in any way at all
        got = f"{type(error).__name__}: {error}"
        raise ArtefactError(_where(artefact), "an answer", got, "Train anew.") from error
    if not np.isfinite(scores).all():
        raise ArtefactError(_where(artefact), "finite scores", "NaN or infinity", "Train anew.")
    return tuple((one.item_id, one.score) for one in best_first(artefact.tables, candidates, scores, K))


def _same(got: tuple[tuple[str, float], ...], wanted: tuple[tuple[str, float], ...]) -> bool:
    one, other = (np.array([score for _, score in answer]) for answer in (got, wanted))
    alike = [item for item, _ in got] == [item for item, _ in wanted]
    return alike and bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE))


def _where(artefact: Artefact) -> str:
    return f"model '{artefact.manifest.name}'"


def _text(answer: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{item} {score:.12g}" for item, score in answer[:3]) or "nothing"
