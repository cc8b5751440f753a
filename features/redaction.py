"""Secrets are hidden in every text that is shown or written: messages, problems, logs, status files.

A secret is found in two ways: by its form (the user information of a URL, the value of an option with a secret's name,
a bearer token, a private key), and by its value, for those of the settings, which ``remember_secrets`` is told.

Texts of strangers are harmless there: what would steer a terminal, or the order of what is read, is an escape. An id, a
dead letter or a model's tag may hold any character, and could move the cursor, or let a line read as another.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "…"

SHORTEST = 8
"""Characters of the shortest value that is hidden wherever it stands: a shorter one is part of ordinary words."""

SECRET_NAME = (
    r"(?:pass(?:word|wd|phrase)|secret|token|user[._]info|jaas\.config|oauthbearer\.config|credentials?"
    r"|(?:api|access|private|account)[._-]?key|key\.pem|keystore\.key|signature)"
)

NAMED = re.compile(rf"(?:^|[._-]|(?<=[a-z])){SECRET_NAME}$", re.IGNORECASE)

WITH_PASSWORD = re.compile(
    r"://[^\s/?#:@]*:[^\s/?#@]+@|\bpassword\s*=\s*\S|[?&][\w.-]*(?:password|secret|signature|token|key)=\S",
    re.IGNORECASE,
)
"""A text that holds a secret: a URL with a password in its user information or query, a connection string of libpq."""

IN_URL = re.compile(r"://[^\s/?#:@]*:([^\s/?#]+)@")

PASSWORDS = re.compile(r"""password\s*=\s*["']?([^"'\s;]+)""", re.IGNORECASE)

REFERENCE = re.compile(r"\$(?:\w+|\{\w+\})")

_REST = rf"(?!{HIDDEN})[^\s\"']+"

_VALUE = rf"""(?!{HIDDEN})(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s'"]+)"""

FORMS = (
    ("private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", HIDDEN),
    ("://", r"://\S*@", f"://{HIDDEN}@"),
    (
        "authorization",
        rf"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer)\s+)?)(?!basic|bearer){_REST}",
        rf"\1{HIDDEN}",
    ),
    ("bearer", r"(\bbearer\s+)[\w.~+/=-]{16,}", rf"\1{HIDDEN}"),
    ("hr_", r"\bhr_[0-9a-f]{12}_[\w-]{16,}", HIDDEN),  # a key of the service
    # password=…, "token": …; a plain word before a colon is text, such as "unexpected token: }".
    ("=", rf"((?:{SECRET_NAME}|[?&]key)[\"']?\s*=\s*){_VALUE}", rf"\1{HIDDEN}"),
    (":", rf"({SECRET_NAME}[\"']\s*:\s*){_VALUE}", rf"\1{HIDDEN}"),
    (":", rf"((?:pass(?:word|wd|phrase)|secret)\s*:\s*){_VALUE}", rf"\1{HIDDEN}"),
)
"""What a lower-case text has that may have a secret of this form, the form, and what is shown in its place."""

_FORMS = tuple((hint, re.compile(form, re.IGNORECASE | re.DOTALL), shown) for hint, form, shown in FORMS)

_HINTS = re.compile(
    r"pass|secret|token|user.info|jaas|oauthbearer|credential|key|signature|authorization|bearer|hr_|://"
)

_remembered: tuple[str, ...] = ()
"""The values of secrets, the longest first: a shorter one may be a part of it."""


def redacted(text: str) -> str:
    """The text without secrets; a redacted text stays as it is."""
    for value in _remembered:
        text = text.replace(value, HIDDEN)
    lower = text.lower()
    if _HINTS.search(lower):
        for hint, form, shown in _FORMS:
            if hint in lower:
                text = form.sub(shown, text)
    return text


def redacted_values(value: Any) -> Any:
    """The value with every text in its mappings and sequences redacted."""
    match value:
        case str():
            return redacted(value)
        case Mapping():
            return {key: redacted_values(each) for key, each in value.items()}
        case list() | tuple():
            return [redacted_values(each) for each in value]
    return value


def is_secret_name(name: str) -> bool:
    """True for the name of an option that holds a secret, such as sasl.password; not for its file's or address'."""
    return NAMED.search(name) is not None


def written_secrets(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the secrets in a tree of settings: values of secret names, and texts with a password in them.

    A reference to a variable of the environment, such as ``${REDIS_PASSWORD}``, is none.
    """
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from written_secrets(value, (*path, str(name)))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from written_secrets(value, path)
    elif isinstance(values, str) and path:
        text = REFERENCE.sub("", values)
        if (is_secret_name(path[-1]) and text) or WITH_PASSWORD.search(text):
            yield path


def remember_secrets(values: Any) -> None:
    """The secrets in these settings are hidden in every text from now on, in this process."""
    global _remembered  # noqa: PLW0603  # one set of secrets a process, as it has one environment
    found = {form for value in _secret_values(values) for form in (value, unquote(value), quote(value, safe=""))}
    long = {value for value in found if len(value) >= SHORTEST}
    _remembered = tuple(sorted(long.union(_remembered), key=len, reverse=True))


def _secret_values(values: Any, name: str = "") -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _secret_values(value, str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _secret_values(value, name)
    elif hasattr(values, "get_secret_value"):
        yield str(values.get_secret_value())
    elif isinstance(values, str):
        if is_secret_name(name):
            yield values
            yield from PASSWORDS.findall(values)
            if name.endswith("info") and ":" in values:
                yield values.partition(":")[2]
        yield from IN_URL.findall(values)


def redact_output() -> None:
    """Log records, and tracebacks of errors that nobody handles, are redacted and inert in this process from now on."""
    make = logging.getLogRecordFactory()
    if not getattr(make, "redacts", False):

        def record_of(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            record.msg, record.args = inert_line(redacted(_message(record))), None
            if record.exc_info and record.exc_info[0] is not None:
                record.exc_text = inert(redacted("".join(traceback.format_exception(*record.exc_info)))).rstrip("\n")
            return record

        record_of.redacts = True  # type: ignore[attr-defined]
        logging.setLogRecordFactory(record_of)
    sys.excepthook = _shown
    threading.excepthook = lambda failed: _shown(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # a message that does not fit its arguments is shown without them
        return str(record.msg)


def _shown(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    if not issubclass(kind, SystemExit):
        sys.stderr.write(inert(redacted("".join(traceback.format_exception(kind, error, trace)))))


_STEERING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and line feed; C1, of which 0x9b begins a sequence as ESC [ does
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"  # direction, invisible, ends of lines
    "\ud800-\udfff\U000e0000-\U000e007f"  # halves of characters, which no output takes; tags, which show nothing
)

STEERING, OF_LINES = re.compile(f"[{_STEERING}]"), re.compile(f"[\t\n{_STEERING}]")


STYLES = re.compile(r"(\x1b\[(?:[0-2]|3[1-6])m)")


def inert(text: str) -> str:
    r"""The text with an escape such as \x1b or \u202e for each character that steers; its lines stay."""
    return STEERING.sub(_escape, text)


def inert_styled(text: str) -> str:
    """As inert, but for bold, dim and colours, which commands use themselves."""
    return "".join(part if at % 2 else inert(part) for at, part in enumerate(STYLES.split(text)))


def inert_line(text: str) -> str:
    """As inert, in one line."""
    return OF_LINES.sub(_escape, text)


def inert_json(text: str) -> str:
    """The JSON text with JSON's own escapes for characters that steer: it has the same value."""
    return STEERING.sub(_json_escape, text)


def _escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
