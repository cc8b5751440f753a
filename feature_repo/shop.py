"""The shop domain: what users do with items, and what a ranker is told about both.

Definitions only. Names, dtypes, order, the stream's fold, the backfill and the store's objects all follow from them;
`headrace features list` shows what they come to.
"""

from headrace import (
    Count, DecayedCount, DistinctCount, Entity, FeatureSet, FeatureView, Field, Last, LastK, Max, Mean, Quantile,
    Ratio, Recommender, Stream, Sum, TimeSinceLast, product, ratio, served_log,
)

TYPES = ["view", "click", "impression", "search", "cart", "remove", "favorite", "purchase", "return", "rating"]
# What a user chose to do: being shown something, or taking something back, says little about taste.
ENGAGED = {"event_type": ["view", "click", "cart", "favorite", "purchase", "rating"]}
# Returns have a negative quantity, hence a negative amount: together with purchases they cancel.
MONEY = {"event_type": ["purchase", "return"]}
VIEW, CART, PURCHASE = {"event_type": "view"}, {"event_type": "cart"}, {"event_type": "purchase"}
IMPRESSION, CLICK = {"event_type": "impression"}, {"event_type": "click"}
FAVORITE, RETURN, RATING = {"event_type": "favorite"}, {"event_type": "return"}, {"event_type": "rating"}

ALL = ["5m", "1h", "24h", "7d", "30d"]
RECENT = ["1h", "24h", "7d"]
HABIT = ["24h", "7d", "30d"]  # what somebody is like

user = Entity("user", keys={"user_id": "string"})
item = Entity("item", keys={"item_id": "string"})

activity = Stream(
    "activity",
    topic="shop.activity",
    fields={
        "event_type": Field("string", required=True, enum=TYPES),
        "user_id": "string",
        "session_id": "string",
        "item_id": "string",
        "category": "string",
        "price": "float64",
        "quantity": "int64",
        "rating": "float64",
        "recommendation_id": "string",
        "position": "int64",
    },
    computed={"amount": product("price", "quantity")},
)

catalogue = Stream(
    "catalogue",
    topic="shop.items",
    fields={
        "item_id": Field("string", required=True),
        "title": "string",
        "category": "string",
        "price": "float64",
        "brand": "string",
    },
)

served = served_log("shop.served")

user_activity = FeatureView(
    "user_activity",
    description="What a user did, bought and looked at last.",
    sets=[
        FeatureSet(user, activity, [Count()], ALL, where=VIEW),
        FeatureSet(user, activity, [Count()], RECENT, where=CLICK),
        FeatureSet(user, activity, [Count()], RECENT, where=IMPRESSION),
        FeatureSet(user, activity, [Count()], ALL, where=CART),
        FeatureSet(user, activity, [Count()], HABIT, where=PURCHASE),
        FeatureSet(user, activity, [Count()], ["30d"], where=RETURN),
        FeatureSet(user, activity, [Count()], HABIT, where=FAVORITE),
        FeatureSet(user, activity, [Count(), Mean("rating")], ["30d"], where=RATING),
        FeatureSet(user, activity, [Sum("amount")], HABIT, where=MONEY, name="net"),
        FeatureSet(user, activity, [Mean("price")], ["24h", "30d"], where=VIEW),
        FeatureSet(user, activity, [Mean("price"), Max("price")], ["30d"], where=PURCHASE),
        FeatureSet(user, activity, [TimeSinceLast()], ["30d"], where=PURCHASE),
        FeatureSet(
            user,
            activity,
            [
                LastK("item_id", 10),
                Last("category"),
                TimeSinceLast(),
                DistinctCount("item_id", k=64),
                DistinctCount("session_id", k=64),
            ],
            ["7d"],
            where=ENGAGED,
            name="engaged",
        ),
        FeatureSet(user, activity, [DecayedCount("1h"), DecayedCount("7d")], ["30d"], where=ENGAGED, name="engaged"),
        # What a request with exclude_seen leaves out: all lists of items here, so the newest 1,000 events of 30 days.
        FeatureSet(user, activity, [LastK("item_id", 1_000)], ["30d"], where=ENGAGED, name="engaged"),
    ],
    derived={
        "click_through_24h": ratio("user_click_count_24h", "user_impression_count_24h"),
        "click_through_7d": ratio("user_click_count_7d", "user_impression_count_7d"),
        "carts_per_view_24h": ratio("user_cart_count_24h", "user_view_count_24h"),
        "purchases_per_view_7d": ratio("user_purchase_count_7d", "user_view_count_7d"),
        "purchases_per_view_30d": ratio("user_purchase_count_30d", "user_view_count_30d"),
        "net_per_purchase_30d": ratio("user_net_amount_sum_30d", "user_purchase_count_30d"),
        "view_trend_1h_to_24h": ratio("user_view_count_1h", "user_view_count_24h"),
        "view_trend_24h_to_7d": ratio("user_view_count_24h", "user_view_count_7d"),
    },
)

item_activity = FeatureView(
    "item_activity",
    description="What users did with an item, what it earns, and whether it is on its way up.",
    sets=[
        FeatureSet(item, activity, [Count()], ALL, where=VIEW),
        FeatureSet(item, activity, [Count()], RECENT, where=CLICK),
        FeatureSet(item, activity, [Count()], RECENT, where=IMPRESSION),
        FeatureSet(item, activity, [Mean("position")], ["24h"], where=IMPRESSION),
        FeatureSet(item, activity, [Count()], ALL, where=CART),
        FeatureSet(item, activity, [Count()], ALL, where=PURCHASE),
        FeatureSet(item, activity, [Count()], ["7d", "30d"], where=FAVORITE),
        FeatureSet(item, activity, [Count()], ["30d"], where=RETURN),
        FeatureSet(item, activity, [Count(), Mean("rating")], ["7d", "30d"], where=RATING),
        FeatureSet(item, activity, [Sum("amount")], HABIT, where=MONEY, name="net"),
        FeatureSet(item, activity, [Quantile("amount", 0.5)], ["30d"], where=PURCHASE),
        FeatureSet(item, activity, [Last("price"), Mean("price")], ["30d"]),
        FeatureSet(item, activity, [Ratio(Count(where=PURCHASE), Count(where=VIEW))], HABIT),
        FeatureSet(
            item, activity, [DistinctCount("user_id", k=64), TimeSinceLast()], ["7d"], where=ENGAGED, name="engaged"
        ),
        FeatureSet(
            item,
            activity,
            [DecayedCount("1h"), DecayedCount("24h"), DecayedCount("7d")],
            ["30d"],
            where=ENGAGED,
            name="engaged",
        ),
    ],
    derived={
        "click_through_1h": ratio("item_click_count_1h", "item_impression_count_1h"),
        "click_through_24h": ratio("item_click_count_24h", "item_impression_count_24h"),
        "click_through_7d": ratio("item_click_count_7d", "item_impression_count_7d"),
        "carts_per_view_24h": ratio("item_cart_count_24h", "item_view_count_24h"),
        "returns_per_purchase_30d": ratio("item_return_count_30d", "item_purchase_count_30d"),
        "view_trend_5m_to_1h": ratio("item_view_count_5m", "item_view_count_1h"),
        "view_trend_1h_to_24h": ratio("item_view_count_1h", "item_view_count_24h"),
        "view_trend_24h_to_7d": ratio("item_view_count_24h", "item_view_count_7d"),
        "purchase_trend_24h_to_7d": ratio("item_purchase_count_24h", "item_purchase_count_7d"),
        "engaged_trend": ratio("item_engaged_decayed_count_1h_30d", "item_engaged_decayed_count_24h_30d"),
    },
)

item_catalogue = FeatureView(
    "item_catalogue",
    description="An item as the catalogue has it: what requests can filter by.",
    sets=[
        FeatureSet(item, catalogue, [Last("category"), Last("price"), Last("brand"), Last("title")], ["365d"]),
    ],
)

recommender = Recommender(
    "shop-recommender",
    stream=activity,
    user=user,
    item=item,
    user_view=user_activity,
    item_view=item_activity,
    kind="event_type",
    # What an event counts: more where the user gave more for it, below 0 where it takes something back.
    weights={
        "view": 0.2, "click": 0.2, "favorite": 0.4, "cart": 0.5, "rating": 1.0, "purchase": 1.0,
        "remove": -0.3, "return": -1.0,
    },
    targets=["purchase", "rating", "cart", "click", "view"],
    catalogue=item_catalogue,
    session="session_id",
    trending={"item_engaged_decayed_count_24h_30d": 1.0},
    popular={"item_purchase_count_30d": 10.0, "item_cart_count_30d": 3.0, "item_view_count_30d": 1.0},
    category="category",
    price="price",
    title="title",
    brand="brand",
    served=served,
)
