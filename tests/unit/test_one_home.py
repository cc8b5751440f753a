"""A store is driven by one home, and what a driver's lease holds nobody else drops or takes from its readers."""

from __future__ import annotations

import pyarrow as pa
import pytest
from store_script import aged, begun

from features.errors import LeaseError
from features.online_store.port import of_schema
from streaming.generations.lease import Claim, id_of, owner_of


@pytest.fixture
def store(opened):
    return opened()


def test_a_second_home_is_refused_while_the_first_drives_the_store_and_after_it_has_stopped(store, opened):
    store.claim("first", "host:/a", 60)
    for take_over in (False, True):
        with pytest.raises(LeaseError, match=r"by this home alone; got 'host:/a', which drives it for .* s more"):
            opened().claim("second", "host:/b", 60, take_over=take_over)
    store.claim("first", "host:/a", 60)
    store.release_claim("host:/b")
    with pytest.raises(LeaseError, match="which drives it"):
        opened().claim("second", "host:/b", 60)
    store.release_claim("host:/a")
    with pytest.raises(LeaseError, match=r"'host:/a', which drove it last\. .*--take-over"):
        opened().claim("second", "host:/b", 60)
    opened().claim("second", "host:/b", 60, take_over=True)
    with pytest.raises(LeaseError, match="'host:/b'"):
        store.claim("first", "host:/a", 60)


def test_a_home_that_was_moved_is_the_same_and_one_that_was_copied_waits_for_the_first(store, opened):
    store.claim("home", "host:/a", 60)
    with pytest.raises(LeaseError, match="'host:/a'"):
        opened().claim("home", "other:/a", 60)
    store.release_claim("host:/a")
    opened().claim("home", "other:/a", 60)


def test_a_claim_is_over_with_its_time(store, opened):
    store.claim("first", "host:/a", 0)
    opened().claim("second", "host:/b", 60, take_over=True)


def test_a_driver_of_before_there_were_claims_is_one_too(store, opened):
    store.take_lease(7, "host:/a", ttl_s=60)
    for take_over in (False, True):
        with pytest.raises(LeaseError, match="'host:/a', which drives it"):
            opened().claim("second", "host:/b", 60, take_over=take_over)
    opened().claim("first", "host:/a", 60)


def test_what_a_lease_holds_is_not_dropped_and_its_readers_are_not_switched(store, opened):
    store.take_lease(1, "me", ttl_s=60)
    driver = begun(store)
    driver.put_rows("v", aged(5))
    names = ("v", of_schema("v", 9))
    for name in names:
        store.set_current(name, 1, "me")
    other = opened()
    other.take_lease(2, "you", ttl_s=60)
    for owner in ("you", ""):
        for name in names:
            with pytest.raises(LeaseError, match=r"generation 1 .*'me'"):
                other.set_current(name, 2, owner)
        with pytest.raises(LeaseError, match=r"generation 1 .*'me'"):
            other.drop_generation(1, owner)
    assert other.read("v", pa.array(["k0"]), 9)[1] == 1
    driver.put_rows("v", aged(6))
    store.release_lease(1, "me")
    other.set_current("v", 2, "you")
    other.drop_generation(1, "you")
    assert (other.current("v"), other.generations()) == (2, [2])


def test_a_home_has_a_number_of_its_own_that_goes_with_it(tmp_path, opened):
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir(), other.mkdir()
    assert len({id_of(home), id_of(home), id_of(other)}) == 2
    with Claim(opened(), home):
        with pytest.raises(LeaseError, match=owner_of(home)):
            Claim(opened(), other)
        assert owner_of(home) != owner_of(other)
    moved = home.rename(tmp_path / "moved")
    with Claim(opened(), moved) as claim:
        claim.keep()
    with pytest.raises(LeaseError, match="take-over"):
        Claim(opened(), other)
    with Claim(opened(), other, take_over=True), pytest.raises(LeaseError):
        claim.keep()
