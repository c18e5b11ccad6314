"""The derived credentials, held by the published test vectors: a change here locks controllers and gateways out."""

from __future__ import annotations

import hmac

import pytest

from arv_ssh.trust import credentials, host_key

ROOT_TOKEN = "systemusertesttoken1234567890aoeuidhtnsqjkxbmwvzpy"
CONTAINER = "zzzzz-dz642-abcdeabcdeabcde"
CERTIFICATE = b"certificate bytes in DER"
ADDRESS = "10.0.0.7:34567"
SESSION = (
    "eyJjb250YWluZXJfdXVpZCI6Inp6enp6LWR6NjQyLWFiY2RlYWJjZGVhYmNkZSIsImV4cCI6MTgwMDAwMDAwMCwibG9naW5fdXNlcm5hbWUiOiIi"
    "LCJyZXF1ZXN0X2lkIjoicmVxLTAxMjM0NTY3ODlhYmNkZWZnaGlqIiwidXNlcl91dWlkIjoienp6enotdHB6ZWQteHVyeW1qeHc3OW52M2p6In0"
)
SECRET = "18318f9250e79d8c20e74b6f44987190e8edabd0d9d8052c6d99b9d10de317a9"
REQUEST = "8ad7031a44c9cb299fd8371d363e03fca165183a5eab550e74412eaec447a46c"
RESPOND = "78dfab50d3fd90538cd45ebe53bb82cff7afaf76733c568f9e9870c7caffaf47"
SIGNATURE = "10eb7009d98e60a39a54ff79d356e6d86e50249999ac942a54d2db9cb985d3f8"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzRuz1gm+bq8f7NfO324HWsfsMuqngTO/enjG0NPpkF"
ECDSA_HOST_KEY_NUMBER = 0xBDD4F931708586AB15C0E10EAC1397100A5D0A4DA459808086FEB4BFC9BCC358
ECDSA_HOST_KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBDaJwspP+WwbmDbH8xjZ06XU+BbuktpgD+QsaEpr"
    "/nsF3kgNs4ORYk9B/byrNVY7OXjItL3hewF5+pjCc//6GVo="
)
ANY_USERNAME = "24867322560f10d5340a63c2e4086728dae65feb781de9820a2de2b4a8185772"
USER_CREDENTIAL = "6c8a15b5fdef9494ea4bc54bb2e9e9d1382d4770fa79bcd1a5190e41dd89ccef"


@pytest.mark.parametrize(
    ("computed", "published"),
    [
        pytest.param(credentials.container_secret(ROOT_TOKEN, CONTAINER), SECRET, id="container_secret"),
        pytest.param(credentials.request_auth(SECRET, CERTIFICATE), REQUEST, id="request_auth"),
        pytest.param(credentials.respond_auth(SECRET, REQUEST), RESPOND, id="respond_auth"),
        pytest.param(credentials.session_auth(SECRET, REQUEST, ADDRESS, SESSION), SIGNATURE, id="session_auth"),
        pytest.param(host_key.public_line(SECRET), HOST_KEY, id="host key"),
        pytest.param(host_key.public_line(SECRET, host_key.ECDSA), ECDSA_HOST_KEY, id="ECDSA host key"),
        pytest.param(credentials.user_credential(SECRET, SESSION), USER_CREDENTIAL, id="user_credential"),
        pytest.param(credentials.any_username(SECRET, SESSION), ANY_USERNAME, id="any_username"),
    ],
)
def test_vector(computed: str, published: str) -> None:
    """Each credential is what the published vector says."""
    assert computed == published


@pytest.mark.parametrize(
    "changed",
    [
        (RESPOND, ADDRESS, SESSION),
        (REQUEST, "10.0.0.7:34568", SESSION),
        (REQUEST, ADDRESS, SESSION[:-1] + "8"),
        (REQUEST, f"{ADDRESS}\n{SESSION}", ""),
    ],
    ids=["other certificate", "other port", "other session", "fields shifted"],
)
def test_session_auth_binds_each_part(changed: tuple[str, str, str]) -> None:
    """A proof for one connection, address and session is none for another."""
    assert credentials.session_auth(SECRET, *changed) != SIGNATURE


def test_ecdsa_host_key_number() -> None:
    """The published private number, and one from 1 to n - 1 for any secret."""
    assert credentials.ecdsa_host_key_number(SECRET) == ECDSA_HOST_KEY_NUMBER
    assert all(0 < credentials.ecdsa_host_key_number(str(secret)) < credentials.P256_ORDER for secret in range(1000))


@pytest.mark.parametrize(
    ("digest", "number"),
    [
        (0, 1),
        (credentials.P256_ORDER - 2, credentials.P256_ORDER - 1),
        (credentials.P256_ORDER - 1, 1),
        ((1 << 512) - 1, ((1 << 512) - 1) % (credentials.P256_ORDER - 1) + 1),
    ],
)
def test_ecdsa_host_key_number_at_the_ends(digest: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No digest leads to 0 or n, which are no private keys."""

    class Digest:
        def digest(self) -> bytes:
            return digest.to_bytes(64, "big")

    monkeypatch.setattr("hmac.new", lambda *arguments: Digest())
    assert credentials.ecdsa_host_key_number(SECRET) == number


def test_derived_tokens_differ_by_purpose() -> None:
    """A label keeps what is derived for one purpose from serving another."""
    derived = {
        credentials.container_secret(ROOT_TOKEN, CONTAINER),
        credentials.container_token(ROOT_TOKEN, CONTAINER),
        credentials.token_digest(ROOT_TOKEN, CONTAINER),
    }
    assert len(derived) == 3


def test_matches() -> None:
    """Only the very text matches; no part of it, no other case, nothing empty."""
    assert credentials.matches(REQUEST, REQUEST)
    for wrong in ("", REQUEST[:-1], REQUEST + "0", REQUEST.upper(), "ü" * 64):
        assert not credentials.matches(wrong, REQUEST)


def test_matches_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is left to hmac.compare_digest."""
    seen: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        seen.append((a, b))
        return real(a, b)

    monkeypatch.setattr("hmac.compare_digest", spy)
    credentials.matches("a", "b")
    assert seen == [(b"a", b"b")]
