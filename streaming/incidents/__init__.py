"""Incidents: what lasts, and alerts once.

In: decisions about events, and the arrivals of entities' events. Out: which alerts repeat one of an open incident.
"""

from streaming.incidents.alerts_once import Incidents, incidents_file
from streaming.incidents.last_times import LastTimes
from streaming.incidents.silences import SilenceWatch, alert_sender, forget_silences, silences_file

__all__ = [
    "Incidents",
    "LastTimes",
    "SilenceWatch",
    "alert_sender",
    "forget_silences",
    "incidents_file",
    "silences_file",
]
