"""The definitions of projects that import files: a stream without event ids, and a view of its users."""

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Field, Stream, Sum

user = Entity("user", keys={"user_id": "string"})
shop = Stream("shop", topic="shop", event_id=None, fields={
    "user_id": Field("string", required=True), "price": "float64",
})
by_user = FeatureView("by_user", sets=[FeatureSet(user, shop, [Count(), Sum("price")], ["1h", "24h"])])
"""
T0 = 1_700_000_000_000
