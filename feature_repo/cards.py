"""The cards domain: payments of customers at terminals, and frauds that become known a week later.

The windowed features of the Fraud Detection Handbook (Le Borgne et al., chapter 3, "Baseline feature transformation"):
what a customer spends, and how risky a terminal has been, as far back as labels are known.
"""

from features.aggregates import Count, Max, Mean
from features.definitions import Entity, FeatureSet, FeatureView, Stream, Topic
from features.expressions import hour_within, ratio, weekday_within
from features.windows import Window

customer = Entity("customer", keys={"customer_id": "int64"})
terminal = Entity("terminal", keys={"terminal_id": "int64"})

# Cash machines say the same in Avro, and by names of their own.
AT_MACHINES = """{"type": "record", "name": "Withdrawal", "fields": [
    {"name": "id", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "card_holder", "type": "long"},
    {"name": "machine", "type": "long"},
    {"name": "amount", "type": "double"}]}"""

transactions = Stream(
    "transactions",
    topic="cards.online",
    event_id="transaction_id",
    fields={"customer_id": "int64", "terminal_id": "int64", "amount": "float64"},
    computed={
        "during_weekend": weekday_within("event_time", 5, 6),
        "during_night": hour_within("event_time", 0, 6),
    },
    also=[
        Topic(
            "cards.atm",
            paths={"customer_id": "card_holder", "terminal_id": "machine"},
            format="avro",
            event_time="at",
            event_id="id",
            schema=AT_MACHINES,
        )
    ],
)

# One message a fraud: event_time is the payment's, and it is known (sent) seven days after.
fraud_labels = Stream(
    "fraud_labels",
    topic="cards.labels",
    event_id="transaction_id",
    fields={"customer_id": "int64", "terminal_id": "int64"},
)

# Payments are few a day: tiles of a second make a row a quarter larger, and a month's window exact to a second.
NOW = [Window(length, tile="1s") for length in ("1d", "7d", "30d")]
LABELLED = [Window(length, tile="1s", delay="7d") for length in ("1d", "7d", "30d")]

customer_spending = FeatureView(
    "customer_spending",
    description="How often and how much a customer pays.",
    sets=[FeatureSet(customer, transactions, [Count(), Mean("amount"), Max("amount")], NOW, name="payment")],
    # How unusual the last day is, next to the month.
    derived={
        "mean_1d_to_30d": ratio("customer_payment_amount_mean_24h", "customer_payment_amount_mean_30d"),
        "count_1d_to_30d": ratio("customer_payment_count_24h", "customer_payment_count_30d"),
    },
)

terminal_risk = FeatureView(
    "terminal_risk",
    description="How much a terminal is used now, and how many of its payments were fraud when that was last known.",
    sets=[
        FeatureSet(terminal, transactions, [Count()], NOW, name="payment"),
        FeatureSet(terminal, transactions, [Count()], LABELLED, name="payment"),
        FeatureSet(terminal, fraud_labels, [Count()], LABELLED, name="fraud"),
    ],
    derived={
        f"risk_{window.label}": ratio(f"terminal_fraud_count_{window.label}", f"terminal_payment_count_{window.label}")
        for window in LABELLED
    },
)
