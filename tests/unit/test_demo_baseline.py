"""What the demo says of its model beside the user's own most frequent items: better, worse, or why it is not known."""

from __future__ import annotations

import pytest

from headrace.commands.demo import beside_own


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.09, "surely better (+0.010 to +0.090 for 84 users)"),
        (-0.09, -0.01, "surely worse (-0.090 to -0.010 for 84 users)"),
        (-0.05, 0.03, "no sure difference (-0.050 to +0.030 for 84 users), as in this shop people mostly buy what"),
    ],
)
def test_the_demo_claims_what_the_interval_allows(low: float, high: float, said: str) -> None:
    rows = [
        {"model": "own_frequent", "ndcg_at_10": 0.555, "recall_at_10": 0.714},
        {"model": "model", "ndcg_at_10": 0.528, "recall_at_10": 0.788},
    ]
    over = {"own_frequent": {"mean": (low + high) / 2, "low": low, "high": high}}
    text = beside_own({"rows": rows, "differences": over, "tested": {"users": 84}})
    assert said in text
    assert "NDCG@10 0.528" in text
    assert "recall@10 0.788 and 0.714" in text
