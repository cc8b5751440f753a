"""The trial: an artefact answers as it did when it was made, or does not serve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from small_shop import model

from features.errors import ArtefactError
from models.recommender.artefact import Artefact, Golden, load, save
from models.recommender.golden import goldens_of, try_out
from models.recommender.scoring import PAIR_FEATURES


class Strange:
    """A ranker whose answer is what it is made with."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def predict_proba(self, inputs):
        if isinstance(self.answer, Exception):
            raise self.answer
        return np.full((len(inputs), 2), self.answer)


@pytest.fixture(scope="module")
def made() -> Artefact:
    inputs = np.random.default_rng(7).random((400, len(PAIR_FEATURES)))
    ranker = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(inputs, inputs[:, 0] > 0.5)
    plain = replace(model(), ranker=ranker)
    return replace(plain, manifest=plain.manifest.model_copy(update={"golden": goldens_of(plain)}))


def test_what_is_loaded_answers_as_what_was_saved(made, tmp_path):
    digest = save(made, tmp_path / "model")
    loaded = load(tmp_path / "model", digest)
    assert loaded.manifest.golden == made.manifest.golden
    assert [golden.recent for golden in loaded.manifest.golden] == [(), ("pen",), ("ink",)]
    try_out(loaded)


def test_a_model_of_no_ranker_has_answers_too(made):
    blend = model()
    assert all(golden.answer for golden in goldens_of(blend))
    try_out(blend)


def test_a_score_that_differs_by_more_than_a_billionth_is_refused(made):
    first, *others = made.manifest.golden
    for by, passes in ((1e-12, True), (1e-6, False)):
        (item, score), *rest = first.answer
        changed = Golden(recent=first.recent, answer=((item, score + by), *rest))
        moved = replace(made, manifest=made.manifest.model_copy(update={"golden": (changed, *others)}))
        if passes:
            try_out(moved)
        else:
            with pytest.raises(ArtefactError, match="answer that it gave when it was made"):
                try_out(moved)


@pytest.mark.parametrize(
    ("ranker", "because"),
    [
        (Strange(float("nan")), "finite scores"),
        (Strange(float("inf")), "finite scores"),
        (Strange(RuntimeError("no tree")), "RuntimeError: no tree"),
        (Strange(0.5), "answer that it gave when it was made"),
    ],
)
def test_a_ranker_that_fails_or_answers_otherwise_is_refused_with_the_reason(made, ranker, because):
    with pytest.raises(ArtefactError, match=because):
        try_out(replace(made, ranker=ranker))


def test_an_artefact_that_does_not_answer_gets_no_golden_answers(made):
    with pytest.raises(ArtefactError, match="KeyError"):
        goldens_of(replace(made, ranker=Strange(KeyError("x"))))
