"""The machines domain: readings of sensors → what is usual for each, and an alert on what is not, without labels."""

from headrace import (
    Anomaly, Count, Entity, FalseAlerts, FeatureSet, FeatureView, Habit, Max, Mean, Min, Rule, Stream, Window, above,
    at_least, ratio,
)

sensor = Entity("sensor", keys={"sensor": "string"})
NAMED = {"sensor": "string"}

readings = Stream("readings", "machines.readings", event_id="reading_id", fields={**NAMED, "value": "float64"})

# Whoever looks into an incident may name its readings by their ids: that judges the model, and teaches it nothing.
incidents = Stream("incidents", "machines.incidents", event_id="reading_id", fields=NAMED)

# Tiles of a day keep four weeks of a sensor in a short row, however often it sends.
FOUR_WEEKS, LAST_HOUR = Window("28d", tile="1d"), Window("1h", tile="1m")
VALUES = [Count(), Min("value"), Max("value"), Mean("value")]

sensor_habits = FeatureView(
    "sensor_habits",
    description="What a sensor has sent in four weeks, and in the last hour.",
    sets=[
        FeatureSet(sensor, readings, VALUES, [FOUR_WEEKS], name="reading"),
        FeatureSet(sensor, readings, [Count(), Mean("value")], [LAST_HOUR], name="reading"),
    ],
    derived={"level": ratio("sensor_reading_value_mean_1h", "sensor_reading_value_mean_28d")},
)

# How far a reading is beyond all of four weeks, and from their mean, in widths of the band: seasons are within it.
OF = "sensor_reading_value_"
BAND = {"low": OF + "min_28d", "high": OF + "max_28d"}

unusual_readings = Anomaly(
    "unusual-readings",
    readings,
    value="value",
    habits=[Habit(**BAND), Habit(middle=OF + "mean_28d", **BAND)],
    group="sensor",
    alert=FalseAlerts(1, quiet="6h"),
    least={"sensor_reading_count_28d": 144},
    labels=incidents,
    rules=[Rule("very_unusual", {"score": above(3), "sensor_reading_count_28d": at_least(1_000)})],
)
