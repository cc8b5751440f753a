"""Trust in models that run their own code: a digest, and with a key its signature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from features.secret_files import SECRETS_DIR
from models.folder import MANIFEST
from models.local_copy import LAST, LocalCopy
from models.tags import DIGEST_TAG, TRUST_KEY, TRUST_SIGNATURE, TRUSTED, trust_tags, trusted

DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    for name in (TRUST_KEY, SECRETS_DIR):
        monkeypatch.delenv(name, raising=False)


def test_without_a_key_the_tag_is_enough_for_the_very_files():
    tags = {DIGEST_TAG: DIGEST, **trust_tags(DIGEST)}
    assert (TRUST_SIGNATURE in tags, trusted(tags)) == (False, True)
    assert not trusted(tags | {DIGEST_TAG: OTHER})
    assert not trusted({TRUSTED: DIGEST})
    assert not trusted({DIGEST_TAG: DIGEST})


def test_with_a_key_only_who_has_it_can_trust(monkeypatch, tmp_path):
    unsigned = {DIGEST_TAG: DIGEST, **trust_tags(DIGEST)}
    monkeypatch.setenv(TRUST_KEY, "first key")
    signed = {DIGEST_TAG: DIGEST, **trust_tags(DIGEST)}
    assert (trusted(signed), trusted(unsigned)) == (True, False)
    assert not trusted(signed | {TRUST_SIGNATURE: "f" * 64})
    assert not trusted(signed | {TRUST_SIGNATURE: "ü"})
    # The signature is of these files alone.
    assert not trusted(signed | {DIGEST_TAG: OTHER, TRUSTED: OTHER})
    monkeypatch.setenv(TRUST_KEY, "second key")
    assert not trusted(signed)
    monkeypatch.delenv(TRUST_KEY)
    (tmp_path / TRUST_KEY).write_text("first key\n")
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    assert trusted(signed)


def kept(folder: Path, *, is_trusted: bool) -> LocalCopy:
    model = folder / "model"
    model.mkdir(parents=True)
    (model / MANIFEST).write_text("{}")
    copy = LocalCopy(folder / "kept")
    copy.keep("3", DIGEST, lambda: model, trusted=is_trusted)
    return copy


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("key", ["", "a key"])
def test_a_copy_is_trusted_as_its_version_was(tmp_path, monkeypatch, key, is_trusted):
    monkeypatch.setenv(TRUST_KEY, key)
    last = kept(tmp_path, is_trusted=is_trusted).last()
    assert last is not None
    assert (last.version, last.digest, last.trusted) == ("3", DIGEST, is_trusted)


def test_with_a_key_who_writes_to_the_copy_cannot_make_it_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_KEY, "a key")
    copy = kept(tmp_path, is_trusted=False)
    path = tmp_path / "kept" / LAST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trusted": True}))
    last = copy.last()
    assert last is not None
    assert not last.trusted


def test_a_copy_of_an_earlier_version_is_trusted_without_a_key_alone(tmp_path, monkeypatch):
    copy = kept(tmp_path, is_trusted=True)
    (tmp_path / "kept" / LAST).write_text(json.dumps({"version": "3", "digest": DIGEST}))
    assert copy.last().trusted
    monkeypatch.setenv(TRUST_KEY, "a key")
    assert not copy.last().trusted
