"""Made-up traffic: a shop, card payments, and a load whose keys follow Zipf's law.

In: a seed and a rate. Out: events by stream.
"""

from headrace.simulators.cards import CardSimulator
from headrace.simulators.cards_traffic import streams_of
from headrace.simulators.shop import ShopSimulator
from headrace.simulators.zipf import Templates, ZipfLoad, send_as_allowed

__all__ = ["CardSimulator", "ShopSimulator", "Templates", "ZipfLoad", "cards_traffic", "send_as_allowed", "streams_of"]
