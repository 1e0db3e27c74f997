"""A sealed secret opens only with its key and for its purpose, and never shows its text."""

from __future__ import annotations

import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.settings import InvalidSettings, Settings
from taskstream.vault.sealing import DoesNotOpen, Sealer, SealingUnavailable, derive_key, fingerprint, new_key

SECRET = "sk-live-9f8e7d6c5b4a"
JWT_SECRET = "a secret of thirty-two bytes or more"


def with_keys(*keys: str) -> Sealer:
    return Sealer.for_secrets(Settings(seal_keys=keys))


@given(text=st.text(), purpose=st.text())
def test_what_was_sealed_opens_for_its_purpose(text: str, purpose: str) -> None:
    sealer = with_keys("A" * 43 + "=")
    assert sealer.open(sealer.seal(text, purpose), purpose) == text


def test_a_sealed_value_moved_to_another_place_does_not_open() -> None:
    sealer = with_keys(new_key())
    sealed = sealer.seal(SECRET, "server:a")
    with pytest.raises(DoesNotOpen) as raised:
        sealer.open(sealed, "server:b")
    assert raised.value.purpose == "server:b"


def test_purpose_and_text_do_not_run_into_each_other() -> None:
    sealer = with_keys(new_key())
    with pytest.raises(DoesNotOpen):
        sealer.open(sealer.seal("b-secret", "server:a"), "server:ab")


def test_the_secret_cannot_be_seen_in_what_is_stored() -> None:
    sealer = with_keys(new_key())
    first, second = sealer.seal(SECRET, "server:a"), sealer.seal(SECRET, "server:a")
    assert SECRET.encode() not in first
    assert first != second


def test_any_changed_byte_is_noticed() -> None:
    sealer = with_keys(new_key())
    sealed = sealer.seal(SECRET, "server:a")
    for place in range(0, len(sealed) - 2, 7):  # the last two are padding
        damaged = bytearray(sealed)
        damaged[place] = ord("A") if damaged[place] != ord("A") else ord("B")
        with pytest.raises(DoesNotOpen):
            sealer.open(bytes(damaged), "server:a")


@pytest.mark.parametrize("rubbish", [b"", b"x", b"\xff\xfe", b"gAAAA", SECRET.encode()])
def test_rubbish_does_not_open(rubbish: bytes) -> None:
    with pytest.raises(DoesNotOpen):
        with_keys(new_key()).open(rubbish, "server:a")


def test_the_newest_key_seals_and_all_keys_open() -> None:
    old, new = new_key(), new_key()
    sealed_before = with_keys(old).seal(SECRET, "server:a")
    both = with_keys(new, old)
    assert both.open(sealed_before, "server:a") == SECRET
    sealed_after = both.seal(SECRET, "server:a")
    assert with_keys(new).open(sealed_after, "server:a") == SECRET
    with pytest.raises(DoesNotOpen):
        with_keys(old).open(sealed_after, "server:a")
    with pytest.raises(DoesNotOpen):
        with_keys(new).open(sealed_before, "server:a")


def test_the_jwt_secret_seals_nothing_that_is_stored() -> None:
    sealer = Sealer.for_secrets(Settings(jwt_secret=JWT_SECRET))

    assert not sealer.available
    with pytest.raises(SealingUnavailable, match="TASKSTREAM_SEAL_KEYS"):
        sealer.seal(SECRET, "server:a")


@pytest.mark.parametrize("keys", [(), (new_key(),)], ids=["no-key", "a-key"])
def test_a_value_sealed_by_an_earlier_version_with_the_jwt_secret_opens(keys: tuple[str, ...]) -> None:
    sealed = with_keys(derive_key(JWT_SECRET)).seal(SECRET, "server:a")

    assert Sealer.for_secrets(Settings(jwt_secret=JWT_SECRET, seal_keys=keys)).open(sealed, "server:a") == SECRET
    with pytest.raises((DoesNotOpen, SealingUnavailable)):
        Sealer.for_secrets(Settings(seal_keys=keys)).open(sealed, "server:a")


def test_a_changed_jwt_secret_loses_no_stored_secret() -> None:
    keys = (new_key(),)
    sealed = Sealer.for_secrets(Settings(jwt_secret=JWT_SECRET, seal_keys=keys)).seal(SECRET, "server:a")

    assert Sealer.for_secrets(Settings(jwt_secret="another" * 8, seal_keys=keys)).open(sealed, "server:a") == SECRET


def test_tokens_need_no_seal_key() -> None:
    sealer = Sealer.for_tokens(Settings(jwt_secret=JWT_SECRET))

    assert sealer.open(sealer.seal(SECRET, "stream token"), "stream token") == SECRET
    assert Sealer.for_tokens(Settings(seal_keys=(new_key(),), jwt_secret=JWT_SECRET)).fingerprints != (
        sealer.fingerprints
    )
    assert not Sealer.for_tokens(Settings()).available


def test_a_fingerprint_is_of_the_key_and_does_not_show_it() -> None:
    key, other = new_key(), new_key()

    assert Sealer([key, other]).fingerprints == (fingerprint(key), fingerprint(other))
    assert fingerprint(key) != fingerprint(other)
    assert fingerprint(key) not in key
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(key))


def test_a_value_is_resealed_once() -> None:
    old, new = new_key(), new_key()
    sealed = with_keys(old).seal(SECRET, "server:a")

    resealed = with_keys(new, old).reseal(sealed)
    assert resealed is not None
    assert with_keys(new).open(resealed, "server:a") == SECRET
    assert with_keys(new, old).reseal(resealed) is None
    with pytest.raises(DoesNotOpen):
        with_keys(new).reseal(sealed)
    with pytest.raises(SealingUnavailable):
        Sealer(only_open=[old]).reseal(sealed)


def test_the_derived_key_never_changes() -> None:
    # What was sealed with it must open after an upgrade.
    assert derive_key(JWT_SECRET) == "XJH04nnYQLn4VpZbGFbbfnm2uor1sdipypetYGP2rcY="


def test_with_neither_it_says_what_to_set() -> None:
    sealer = Sealer.for_secrets(Settings())
    assert not sealer.available
    with pytest.raises(SealingUnavailable, match="TASKSTREAM_SEAL_KEYS"):
        sealer.seal(SECRET, "server:a")
    with pytest.raises(SealingUnavailable, match="TASKSTREAM_SEAL_KEYS"):
        sealer.open(b"", "server:a")


@pytest.mark.parametrize("bad", ["short", "A" * 44, "ä" * 44, "A" * 42 + "=="])
def test_a_bad_key_is_named_by_its_place_only(bad: str) -> None:
    with pytest.raises(InvalidSettings, match="key number 2") as raised:
        with_keys(new_key(), bad)
    assert bad not in everything(raised.value)


def test_no_error_and_no_repr_holds_a_secret() -> None:
    key = new_key()
    sealer = with_keys(key)
    assert key not in repr(sealer) + str(sealer)
    with pytest.raises(DoesNotOpen) as moved:
        sealer.open(sealer.seal(SECRET, "server:a"), "server:b")
    with pytest.raises(ValueError, match="surrogates") as unencodable:
        sealer.seal(SECRET + "\ud800", "server:a")
    for error in (moved.value, unencodable.value):
        assert SECRET not in everything(error)
        assert key not in everything(error)


def everything(error: BaseException) -> str:
    """All that a log could show of an error: itself, its attributes, its traceback, and what it arose from."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    for behind in (error.__cause__, error.__context__):
        if behind is not None:
            shown += everything(behind) + repr(behind.args)
    return shown
