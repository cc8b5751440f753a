"""Dead letters as data: what a letter keeps, when two are one, and what a receipt does."""

from __future__ import annotations

from streaming.dead_letters import REPLAYED, letter_headers, letters_of, original_headers
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


def test_what_somebody_else_put_into_the_topic_is_passed_over():
    assert letters_of([record([]), record([("hr_topic", b"x"), ("hr_partition", b"one")])]) == []


def test_letters_come_in_the_order_of_their_places():
    places = [("b", 0, 9), ("a", 1, 10), ("a", 1, 9), ("a", 0, 11)]
    found = letters_of(record(letter_headers((), place, "bad_json: x", 1)) for place in places)
    assert [letter.place for letter in found] == sorted(places)
