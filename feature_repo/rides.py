"""The journeys domain: pick-ups and drop-offs → demand, supply and surge by zone, and how long a journey will take."""

from headrace import (
    Count, Entity, FeatureSet, FeatureView, Field, FirstOf, Mean, Regressor, Rule, Stream, Window, above, at_least,
    at_most, difference, hour_within, ratio, weekday_within,
)

ZONES = {"pickup_zone": "int64", "dropoff_zone": "int64"}
zone = Entity("zone", keys={"zone": "int64"})
route = Entity("route", keys=ZONES)
origin = Entity("origin", keys={"pickup_zone": "int64"})
destination = Entity("destination", keys={"dropoff_zone": "int64"})

HOURS = {f"from_{hour}": hour for hour in range(0, 24, 2)}  # of UTC

# The same id names a journey when it begins and when it ends; a car that has dropped somebody off is free in that zone.
pickups = Stream(
    "pickups",
    topic="rides.pickups",
    event_id="trip_id",
    fields={**ZONES, "zone": Field("int64", FirstOf(["zone", "pickup_zone"])), "distance": "float64"},
    computed={name: hour_within("event_time", first, first + 1) for name, first in HOURS.items()}
    | {"weekend": weekday_within("event_time", 5, 6)},
)
dropoffs = Stream(
    "dropoffs",
    topic="rides.dropoffs",
    event_id="trip_id",
    fields={
        **ZONES, "zone": Field("int64", FirstOf(["zone", "dropoff_zone"])), "distance": "float64", "minutes": "float64"
    },
    computed={"pace": ratio("minutes", "distance")},
)

NOW = [Window("15m", tile="1s"), Window("1h", tile="1m")]
USUAL = [Window("7d", tile="1h"), Window("28d", tile="1d")]
LIKELY = {"minutes": at_most(60)}  # longer ones are meters that somebody forgot

def rides(place, now, usual):
    """What is counted and measured of a place: journeys that begin now, and how those that have ended went."""
    return [
        FeatureSet(place, pickups, [Count()], now, name="demand"),
        FeatureSet(place, dropoffs, [Count(), Mean("minutes"), Mean("pace")], usual, where=LIKELY, name="ride"),
    ]


zone_now = FeatureView(
    "zone_now",
    description="How many are picked up in a zone (demand) and how many cars become free there (supply).",
    sets=[
        FeatureSet(zone, pickups, [Count()], NOW, name="demand"),
        FeatureSet(zone, dropoffs, [Count()], NOW, name="supply"),
    ],
    derived={f"surge_{w.label}": ratio(f"zone_demand_count_{w.label}", f"zone_supply_count_{w.label}") for w in NOW},
)
route_times = FeatureView("route_times", rides(route, ["1h"], USUAL), description="Journeys between two zones.")
origins = FeatureView("origins", rides(origin, ["1h"], ["1h"]), description="Journeys from a zone.")
destinations = FeatureView("destinations", rides(destination, ["1h"], ["1h"]), description="Journeys to a zone.")

INPUTS = ["distance", *ZONES, *HOURS, "weekend", "route_ride_minutes_mean_28d", "zone_demand_count_1h"]
INPUTS += ["origin_ride_pace_mean_1h", "destination_ride_pace_mean_1h"]
arrival = Regressor(
    "arrival", pickups, dropoffs, INPUTS, label="minutes", by=[*ZONES], within=(1, 60), label_delay="1h",
    derived={"over_usual": difference("score", "route_ride_minutes_mean_28d")},
    rules=[
        Rule("surge", {"zone_surge_15m": at_least(3), "zone_demand_count_15m": at_least(10)}),
        Rule("slow", {"over_usual": above(10), "route_ride_count_28d": at_least(20)}),
    ],
)
