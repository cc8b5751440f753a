"""Classes of records that break stream processors, with any number of random members: messages of shop_project.

A member is a whole message. ``EXPECTED`` says of each class whether its members are refused or counted; of the class
"a bit flipped" members may be either.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

Maker = Callable[[Random, dict[str, Any]], bytes | None]
OPTIONAL = ("event_type", "price", "quantity", "gift", "place")
TEXTS = ("é", "日本", "\u202eabc\u2066", "e\u0301", "\U0001f600", "a\u200bb", "\ufffd", "ﷺ", "\u0130i", "ß" * 40)
DAY = 86_400_000


def _text(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def _put(event: dict[str, Any], name: str, literal: str) -> bytes:
    """The event with this JSON text as the value of a key, be it JSON or not."""
    mark = "\x01mark\x01"
    return _text(event | {name: mark}).replace(json.dumps(mark), literal).encode("utf-8", "surrogatepass")


def _digits(rng: Random, count: int) -> str:
    return str(rng.randint(1, 9)) + "".join(str(rng.randrange(10)) for _ in range(count - 1))


def _truncated(rng: Random, event: dict[str, Any]) -> bytes:
    text = _text(event).encode()
    return text[: rng.randrange(1, len(text))]


def _flipped(rng: Random, event: dict[str, Any]) -> bytes:
    text = bytearray(_text(event).encode())
    text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    return bytes(text)


def _bad_utf8(rng: Random, event: dict[str, Any]) -> bytes:
    return (
        _text(event | {"note": "x~x"})
        .encode()
        .replace(b"~", rng.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe9"]))
    )


def _behind(rng: Random, event: dict[str, Any]) -> bytes:
    return _text(event).encode() + rng.choice([b"x", b"\x00", b",", b"}", b"]", b" {}", b"\n[]", b"//", b";"])


def _nested(rng: Random, event: dict[str, Any]) -> bytes:
    depth = rng.randrange(300, 30_000)
    opening, closing = rng.choice([('{"x":', "}"), ("[", "]")])
    return _put(event, "x", opening * depth + "1" + closing * depth)


def _repeated_key(rng: Random, event: dict[str, Any]) -> bytes:
    name = rng.choice(list(event))
    return (_text(event)[:-1] + f", {json.dumps(name)}: {json.dumps(event[name])}}}").encode()


def _one_of(*makers: Maker) -> Maker:
    return lambda rng, event: rng.choice(makers)(rng, event)


def _value(names: tuple[str, ...], *literals: str) -> Maker:
    return lambda rng, event: _put(event, rng.choice(names), rng.choice(literals))


def _integer(around: int, spread: int) -> Maker:
    return lambda rng, event: _put(
        event, "quantity", str(rng.choice([1, -1]) * (around + rng.randint(-spread, spread)))
    )


def _wide(rng: Random, event: dict[str, Any]) -> bytes:
    return _text(event | {f"extra{number}": rng.random() for number in range(rng.randrange(200, 2_000))}).encode()


REFUSED: dict[str, Maker] = {
    "truncated": _truncated,
    "random bytes": lambda rng, event: rng.randbytes(rng.randrange(1, 200)),
    "nothing": lambda rng, event: rng.choice([None, b"", b" ", b"\n", b"\x00"]),
    "bytes that are no UTF-8": _bad_utf8,
    "UTF-16 and UTF-32": lambda rng, event: _text(event).encode(rng.choice(["utf-16", "utf-16-le", "utf-32"])),
    "byte order mark": lambda rng, event: b"\xef\xbb\xbf" + _text(event).encode(),
    "two objects": lambda rng, event: (_text(event) + rng.choice(["", " ", "\n", ","]) + _text(event)).encode(),
    "something behind the object": _behind,
    "no object": lambda rng, event: rng.choice([b"1", b"null", b'"x"', b"[]", b"true", f"[{_text(event)}]".encode()]),
    "single quotes": lambda rng, event: _text(event).replace('"', "'").encode(),
    "numbers that are not finite": _value(("price", "quantity", "other"), "NaN", "Infinity", "-Infinity", "nan"),
    "floats beyond float64": lambda rng, event: _put(
        event, "price", f"{rng.choice('-1')}1e{rng.randrange(310, 9_999)}"
    ),
    "integers beyond int64": lambda rng, event: _put(event, "quantity", _digits(rng, rng.randrange(20, 5_000))),
    "a float for an integer": lambda rng, event: _put(event, "quantity", rng.choice(["2.0", "1e3", "-0.0", "0.5"])),
    "text for a number": _value(("price", "quantity"), '"4.5"', '"4"', '""', '"n/a"', '"1,5"', '"NaN"'),
    "a boolean for a number": _value(("price", "quantity"), "true", "false"),
    "a number for a boolean or text": _value(("gift", "user_id", "event_type"), "0", "1", "-1.5"),
    "objects and lists for scalars": _value(("price", "quantity", "gift", "user_id"), "{}", "[]", '{"a":1}', "[1]"),
    "a scalar where a path goes on": _value(("place",), '"Rome"', "1", "true", "[]", '[{"city":"Rome"}]'),
    "nested too deep": _nested,
    "lone surrogates": _value(("user_id", "event_id"), '"\\ud800"', '"a\\udfffb"', '"\\udc00\\ud800"'),
    "a key twice": _repeated_key,
    "a required field missing": _one_of(
        lambda rng, event: _put(event, "user_id", "null"),
        lambda rng, event: _text({name: value for name, value in event.items() if name != "user_id"}).encode(),
    ),
    "an unknown kind": _value(("event_type",), '"wiew"', '""', '"VIEW"', '"view "', '"vi\\u0000ew"'),
    "ids that identify nothing": _value(("user_id", "event_id"), '""', '" "', '"\\n"', '"a\\u0000"', '"\\u0085"'),
    "ids that are too long": lambda rng, event: _text(
        event | {rng.choice(["user_id", "event_id"]): rng.choice("aé日") * rng.randrange(257, 3_000)}
    ).encode(),
    "times in another unit": lambda rng, event: _text(
        event | {"event_time": event["event_time"] * rng.choice([1_000, 1_000_000]) + rng.randrange(999)}
    ).encode(),
    "times that are none": _value(
        ("event_time",),
        "null",
        "0",
        "-1",
        '"yesterday"',
        '"2026-05-28T20:26:40"',
        "1.5",
        "true",
        '"9999-12-31T00:00:00Z"',
    ),
}
COUNTED: dict[str, Maker] = {
    "integers around 2^53": _integer(2**53, 3),
    "integers around 2^63": lambda rng, event: _put(event, "quantity", str(rng.choice([2**63 - 1, -(2**63), 2**62]))),
    "extreme floats": _value(
        ("price",), "1.7976931348623157e308", "-1.7976931348623157e308", "5e-324", "-0.0", "2.2250738585072011e-308"
    ),
    "odd but well-formed text": lambda rng, event: _text(
        event | {"note": rng.choice(TEXTS), "place": {"city": rng.choice(TEXTS)}}
    ).encode(),
    "long texts": lambda rng, event: _text(event | {"note": rng.choice("x日") * rng.randrange(5_000, 60_000)}).encode(),
    "nothing optional": lambda rng, event: _text(event | dict.fromkeys(rng.sample(OPTIONAL, 3))).encode(),
    "hundreds of unknown fields": _wide,
}
EITHER: dict[str, Maker] = {"a bit flipped": _flipped}
CLASSES: dict[str, Maker] = REFUSED | COUNTED | EITHER


def members(name: str, count: int, rng: Random, now: int) -> list[bytes | None]:
    """Random messages of the class, each with an id and a user of its own."""
    made = []
    for number in range(count):
        event: dict[str, Any] = {
            "event_id": f"{name} {number}",
            "event_time": now - rng.randrange(DAY // 2),
            "event_type": rng.choice(["view", "cart"]),
            "user_id": f"p{rng.randrange(50)}",
            "place": {"city": rng.choice(["Rome", "Bonn", None])},
            "price": rng.randrange(100) / 4,
            "quantity": rng.randrange(9),
            "gift": rng.random() < 0.5,
        }
        made.append(CLASSES[name](rng, event))
    return made
