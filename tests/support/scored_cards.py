"""The definitions of feature_repo/cards.py with a stream of the scored payments, and features and a rule of it."""

from __future__ import annotations

from pathlib import Path

from features.definitions.repo import FeatureRepo, load_repo

SCORED = """
from headrace import Sum, product, scored_stream

scored = scored_stream(
    "scored_transactions", "cards.scored", of=transactions, fields=["customer_id", "amount"],
    columns={"risk": "score", "scored_by": "version"}, computed={"at_risk": product("risk", "amount")},
)
OF_SCORES = [Count(), Max("risk"), Last("risk"), Last("scored_by"), Mean("risk"), Sum("at_risk")]
customer_risk = FeatureView(
    "customer_risk",
    [
        FeatureSet(customer, scored, OF_SCORES, ["1d", "30d"], name="scored"),
        FeatureSet(customer, transactions, [Count()], ["1d"], name="paid"),
    ],
)
"""
RULE = """    Rule("risky_before", {"customer_scored_risk_max_30d": above(0.2)}),
"""


def with_scored(text: str) -> str:
    """The text of the definitions with the scored stream, its view and its rule."""
    text = text.replace("INPUTS = [", f"{SCORED}\nINPUTS = [").replace("RULES = [\n", f"RULES = [\n{RULE}")
    return text.replace("RULES, HABITS\n", "RULES, HABITS, scored=scored\n")


def scored_repo(folder: Path) -> FeatureRepo:
    """The definitions, from a file in the folder."""
    cards = Path(__file__).parents[2] / "feature_repo" / "cards.py"
    (folder / "cards.py").write_text(with_scored(cards.read_text(encoding="utf-8")), encoding="utf-8")
    return load_repo(folder / "cards.py")
