"""Dead letters as data: what a letter keeps, when two are one, and what a receipt does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from headrace.commands.stream.deadletters import _named
from streaming.dead_letters import REPLAYED, Acknowledged, DeadLetterError, letter_headers, letters_of, original_headers
from streaming.kafka.consumer import Record

PLACE = ("shop.activity", 1, 1841)


def record(headers, value: bytes | None = b"\xff", offset: int = 0) -> Record:
    return Record("shop.activity.dead", 0, offset, 99, b"user", value, tuple(headers))


def test_a_letter_has_the_records_key_bytes_and_headers_and_where_it_stood():
    given = (("trace", b"\x00\xff"), ("empty", None))
    (letter,) = letters_of([record(letter_headers(given, PLACE, "wrong_type: price requires float64; got 'x'", 77))])
    assert (letter.place, letter.time_ms, letter.code) == (PLACE, 77, "wrong_type")
    assert (letter.key, letter.value, letter.headers, letter.is_replayed) == (b"user", b"\xff", given, False)


def test_a_record_that_is_refused_again_names_its_new_place_only():
    first = letter_headers((("trace", b"1"),), PLACE, "bad_json: x", 77)
    again = letter_headers(first, ("shop.activity", 0, 5_000), "bad_json: x", 88)
    assert original_headers(again) == (("trace", b"1"),)
    assert letters_of([record(again)])[0].place == ("shop.activity", 0, 5_000)


def test_a_letter_that_was_sent_twice_is_one():
    headers = letter_headers((), PLACE, "bad_json: x", 77)
    assert len(letters_of([record(headers, offset=0), record(headers, offset=1)])) == 1


def test_a_receipt_marks_its_letter_and_keeps_its_bytes_wherever_it_stands():
    letter = record(letter_headers((), PLACE, "bad_json: x", 77))
    receipt = record((*letter_headers((), PLACE, "bad_json: x", 77), (REPLAYED, b"1")), value=None)
    for records in ([letter, receipt], [receipt, letter], [letter, receipt, letter]):
        (found,) = letters_of(records)
        assert (found.is_replayed, found.value) == (True, b"\xff")


def test_letters_of_a_topic_that_was_made_anew_are_their_own():
    """The same offsets have other records, at other times: what was replayed of the first is not of the second."""
    first, second = (record(letter_headers((), PLACE, f"bad_json: {time}", time)) for time in (77, 99))
    receipt = record((*letter_headers((), PLACE, "bad_json: 77", 77), (REPLAYED, b"1")), value=None)
    for records in ([first, receipt, second], [second, first, receipt], [receipt, second, first]):
        found = letters_of(records)
        assert [(letter.time_ms, letter.is_replayed) for letter in found] == [(77, True), (99, False)]
        assert _named(["shop.activity/1/1841"], found) == found


class SharedProducer:
    """A producer whose last answers another thread has taken, which has not passed them on when flush() returns."""

    def __init__(self, error: Any = None) -> None:
        self.sent: list[Any] = []
        self._error = error

    def send(self, *message: Any) -> None:
        self.sent.append(message[-1])

    def flush(self, _timeout_s: float) -> int:
        half = len(self.sent) // 2
        for on_ack in self.sent[:half]:
            on_ack(None, None)
        threading.Timer(0.2, lambda: [on_ack(self._error, None) for on_ack in self.sent[half:]]).start()
        return 0


class Refusal:
    def str(self) -> str:
        return "too large"


def send_ten(producer: SharedProducer) -> None:
    with Acknowledged(producer, "t") as send:  # type: ignore[arg-type]
        for number in range(10):
            send(None, bytes([number]), ())


def test_answers_that_another_thread_takes_are_waited_for():
    send_ten(SharedProducer())
    with pytest.raises(DeadLetterError, match=r"5 of 10 acknowledged \(too large\)"):
        send_ten(SharedProducer(Refusal()))


def test_what_somebody_else_put_into_the_topic_is_passed_over():
    assert letters_of([record([]), record([("hr_topic", b"x"), ("hr_partition", b"one")])]) == []


def test_letters_come_in_the_order_of_their_places():
    places = [("b", 0, 9), ("a", 1, 10), ("a", 1, 9), ("a", 0, 11)]
    found = letters_of(record(letter_headers((), place, "bad_json: x", 1)) for place in places)
    assert [letter.place for letter in found] == sorted(places)
