"""The cards domain: payments, frauds that become known a week later, and the Fraud Detection Handbook's inputs."""

from headrace import (
    Count, Entity, EventModel, FeatureSet, FeatureView, Last, Max, Mean, Quantile, Rule, Stream, TopADay, Topic, Window,
    above, at_least, difference, hour_within, other_than, ratio, weekday_within,
)

customer = Entity("customer", keys={"customer_id": "int64"})
terminal = Entity("terminal", keys={"terminal_id": "int64"})
KEYS = {"customer_id": "int64", "terminal_id": "int64"}

# Cash machines say the same in Avro, and by names of their own.
AT_MACHINES = """{"type": "record", "name": "Withdrawal", "fields": [
    {"name": "id", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "card_holder", "type": "long"},
    {"name": "machine", "type": "long"},
    {"name": "amount", "type": "double"}]}"""
AT_PATHS = {"customer_id": "card_holder", "terminal_id": "machine"}

transactions = Stream(
    "transactions",
    topic="cards.online",
    event_id="transaction_id",
    fields={**KEYS, "amount": "float64"},
    computed={"during_weekend": weekday_within("event_time", 5, 6), "during_night": hour_within("event_time", 0, 6)},
    also=[Topic("cards.atm", AT_PATHS, "avro", "at", event_id="id", schema=AT_MACHINES)],
)

# One message a fraud: event_time is the payment's, and it is known (sent) seven days after.
fraud_labels = Stream("fraud_labels", "cards.labels", KEYS, event_id="transaction_id")

# Payments are few a day: tiles of a second make a row a quarter larger, and a month's window exact to a second.
NOW = [Window(length, tile="1s") for length in ("1d", "7d", "30d")]
LABELLED = [Window(length, tile="1s", delay="7d") for length in ("1d", "7d", "30d")]
DELAYED = [window.label for window in LABELLED]

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
    derived={f"risk_{w}": ratio(f"terminal_fraud_count_{w}", f"terminal_payment_count_{w}") for w in DELAYED},
)

RECENT = FeatureSet(customer, transactions, [Count(), Last("terminal_id")], [Window("10m", tile="1s")], name="payment")
LARGEST = FeatureSet(customer, transactions, [Quantile("amount", 0.99)], [Window("30d", tile="1d")], name="payment")
customer_recent = FeatureView("customer_recent", [RECENT, LARGEST], description="The last minutes, and large amounts.")

INPUTS = ["amount", "during_weekend", "during_night"]
INPUTS += [f"customer_payment_{what}_{window.label}" for window in NOW for what in ("count", "amount_mean")]
INPUTS += [f"terminal_{what}_{window}" for window in DELAYED for what in ("payment_count", "risk")]
DERIVED = {
    "amount_to_p99": ratio("amount", "customer_payment_amount_p99_30d"),
    "terminal_moved": difference("terminal_id", "customer_payment_terminal_id_last_10m"),
}
RULES = [
    Rule("velocity", {"customer_payment_count_10m": at_least(5)}),
    Rule("above_p99", {"amount_to_p99": above(1), "customer_payment_count_30d": at_least(20)}),
    Rule("elsewhere", {"terminal_moved": other_than(0)}),
]
HABITS = {"amount": "customer_payment_amount_mean_30d"}
cards = EventModel(
    "cards", transactions, fraud_labels, INPUTS, TopADay(100), "customer_id", "7d", DERIVED, RULES, HABITS
)
