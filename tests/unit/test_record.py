"""A run's record: what is measured for its pictures, by hand-made rankers whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from small_shop import model

from models.recommender.calibration import Calibration
from models.recommender.scoring import PAIR_FEATURES
from training.judging.record import code_version, files_of, importance, signature
from training.recommender.calibrating import CalibrationCheck
from training.recommender.evaluate import ModelResult
from training.recommender.ranker import RankerExamples

N = 1_000
INPUTS = np.random.default_rng(3).random((N, len(PAIR_FEATURES)))


class ByFirst:
    """The first input is the chance."""

    def predict_proba(self, inputs):
        return np.column_stack([1 - inputs[:, 0], inputs[:, 0]])


def held_out() -> RankerExamples:
    return RankerExamples(INPUTS, np.random.default_rng(4).random(N) < INPUTS[:, 0])


def test_only_the_input_that_a_ranker_looks_at_is_important():
    drops = importance(replace(model(), ranker=ByFirst()), held_out(), 0)
    (first, most), *others = drops.items()
    assert first == PAIR_FEATURES[0]
    assert most > 0.1
    assert {drop for _, drop in others} == {0.0}


def test_the_signature_names_every_input_in_its_order():
    told = signature(model().manifest)
    assert [one in told["inputs"] for one in PAIR_FEATURES] == [True] * len(PAIR_FEATURES)
    assert told["inputs"].index(PAIR_FEATURES[0]) < told["inputs"].index(PAIR_FEATURES[-1])
    assert "score" in told["outputs"]


def test_a_record_has_pictures_and_those_of_a_ranker_only_with_one():
    rows = [ModelResult("model", {"ndcg_at_3": 0.5, "coverage_at_3": 0.1}, 0.0, np.ones(2), (0.1, 0.2, 0.5))]
    plain = files_of(model(), rows, held_out(), CalibrationCheck(), 0)
    assert set(plain) == {"signature.json", "ndcg_by_k.png", "coverage.png"}
    looked = CalibrationCheck(Calibration(slope=1, intercept=-1), INPUTS[:, 0], INPUTS[:, 0] / 2, held_out().taken)
    ranked = files_of(replace(model(), ranker=ByFirst()), rows, held_out(), looked, 0)
    assert set(ranked) - set(plain) == {"importance.png", "calibration.png", "reference.json"}
    assert all(content.startswith(b"\x89PNG") for name, content in ranked.items() if name.endswith("png"))


def test_a_folder_that_is_no_repository_has_the_packages_version(tmp_path):
    assert code_version(tmp_path)[0].isdigit()
