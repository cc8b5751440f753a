"""Tags of a model version by which it may serve: the gate's verdict, bound to the judged files.

Training writes these tags, serving obeys them. Anybody can move an alias, so a verdict counts only for the manifest
whose digest it names: no version serves because of a verdict on another version or on its older files.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping

from features.secret_files import secret

GATE = "gate"
"""The tag that holds PASSED or REFUSED."""

GATE_DIGEST = "gate_manifest_sha256"
"""The tag that holds the digest of the manifest which the gate judged."""

GATE_REASON = "gate_reason"
"""The tag that holds the reason of the verdict."""

TRUSTED = "trusted_manifest_sha256"
"""The tag that holds the digest of the manifest whose files may run their own code."""

TRUST_SIGNATURE = "trusted_manifest_hmac"
"""The tag that holds the trusted digest's HMAC-SHA256 in hex, where whoever trusted it had the key."""

TRUST_KEY = "HEADRACE_MLFLOW__TRUST_KEY"
"""The variable, or secret file, of the key that signs trust; without it, the tag of trust is enough."""

CHAMPION_DIGEST = "was_champion_sha256"
"""The tag that holds a version's digest when it became champion: these files may become champion again."""

CHAMPION_SINCE = "champion_since_ms"
"""The tag that holds the time at which it became champion, epoch ms."""

SERVING_REFUSED = "serving_refused"
"""The tag with the reason for which a service refused a version that the alias named."""

CHALLENGER = "challenger"
"""The alias of the newest version that did not pass the gate."""

CANARY = "canary"
"""The alias of a version that answers a share of the users."""

CANARY_SHARE = "canary_share"
"""The tag that holds the share; without it the share of the settings counts."""

MOST_SHARE = 0.5
"""The largest share of a canary, which is judged against the champion's answers beside it."""

CANARY_BEGUN = "canary_begun_ms"
"""The tag that holds the time at which it became the canary, epoch ms; a stop before that no longer counts."""

CANARY_STOPPED = "canary_stopped"
"""The tag with the reason for which a service stopped the canary."""

PASSED, REFUSED = "passed", "refused"


def verdict_tags(digest: str, passed: bool, reason: str) -> dict[str, str]:
    """The tags of a verdict on the artefact of this digest."""
    return {GATE: PASSED if passed else REFUSED, GATE_DIGEST: digest, GATE_REASON: reason}


def champion_tags(digest: str, now_ms: int) -> dict[str, str]:
    """The tags of a version that becomes champion."""
    return {CHAMPION_DIGEST: digest, CHAMPION_SINCE: str(now_ms)}


def canary_tags(share: float | None, now_ms: int) -> dict[str, str]:
    """The tags of a version that becomes the canary, for a share of the users or the setting's."""
    return {CANARY_BEGUN: str(now_ms), **({} if share is None else {CANARY_SHARE: str(share)})}


def was_champion(tags: Mapping[str, str]) -> bool:
    """True when these files were champion before."""
    return bool(tags.get(DIGEST_TAG)) and tags.get(CHAMPION_DIGEST) == tags[DIGEST_TAG]


def trust_tags(digest: str) -> dict[str, str]:
    """The tags of a version whose files, of this digest, may run their own code; signed where there is a key."""
    signed = signature_of(digest)
    return {TRUSTED: digest, **({TRUST_SIGNATURE: signed} if signed else {})}


def trusted(tags: Mapping[str, str]) -> bool:
    """True when these very files were registered as trusted to run their own code, by somebody who has the key."""
    digest = tags.get(DIGEST_TAG)
    return bool(digest) and tags.get(TRUSTED) == digest and is_signed(digest or "", tags.get(TRUST_SIGNATURE, ""))


def signature_of(digest: str) -> str:
    """The HMAC-SHA256 of the digest in hex; empty without a key."""
    key = secret(TRUST_KEY, os.environ)
    return hmac.digest(key.encode(), digest.encode(), "sha256").hex() if key else ""


def is_signed(digest: str, signature: str) -> bool:
    """True for the digest's signature; without a key, for any."""
    own = signature_of(digest)
    return not own or hmac.compare_digest(own.encode(), signature.encode())


def passed(tags: Mapping[str, str]) -> bool:
    """True when the gate passed these files."""
    return _judged(tags) and tags.get(GATE) == PASSED


def refusal(tags: Mapping[str, str]) -> str | None:
    """The reason for which a version of these tags must not serve; None if it may."""
    if not tags.get(DIGEST_TAG):
        return f"it has no tag {DIGEST_TAG}, so nobody can tell whether its files are whole"
    if was_champion(tags) or passed(tags):
        return None
    if GATE not in tags:
        return "it has no verdict of the gate"
    if not _judged(tags):
        return "the gate's verdict is about other files than these"
    return f"the gate refused it: {tags.get(GATE_REASON) or 'no reason given'}"


def _judged(tags: Mapping[str, str]) -> bool:
    return bool(tags.get(DIGEST_TAG)) and tags.get(GATE_DIGEST) == tags[DIGEST_TAG]


CHAMPION = "champion"
"""The alias of the model that serves."""

DIGEST_TAG = "manifest_sha256"
"""The tag of a model version that holds the digest of its manifest.json."""
