"""The credentials of a session, all derived by HMAC from the cluster's SystemRootToken.

The hash is SHA-256. Every value is lower-case hex text, and the text (not the raw digest) is the next key; only host
keys are made of raw digests. Pure: knows nothing of sockets,
SSH or HTTP. Compare two of them with :func:`matches`, which takes constant time.
"""

from __future__ import annotations

import hashlib
import hmac

CLOCK_SKEW = 60
"""Seconds that the clocks of two hosts may differ when one judges the time that the other signed."""

HOST_KEY_LABEL = b"arv-ssh host key v1"
ECDSA_HOST_KEY_LABEL = b"arv-ssh ECDSA host key v1"
USER_CREDENTIAL_LABEL = b"arv-ssh user credential v1\n"
ANY_USERNAME_LABEL = b"arv-ssh any ssh username v1\n"
CONTAINER_TOKEN_LABEL = "arv-ssh container token v1\n"  # noqa: S105 - a label, not a token
RESUME_AUTH_LABEL = "arv-ssh resume v1\n"
RESUME_PROOF_LABEL = "arv-ssh resume proof v1\n"
HELD_LABEL = "arv-ssh held v1\n"
CONTROLLER_AUTH_LABEL = "arv-ssh controller v2\n"
TOKEN_DIGEST_LABEL = "arv-ssh token digest v1\n"  # noqa: S105

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order n of the base point of NIST P-256 (SP 800-186 §3.2.1.3): a private key is a number from 1 to n - 1."""


def _hex(key: str, message: bytes) -> str:
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def container_secret(system_root_token: str, container_uuid: str) -> str:
    """Return the secret that the controller, the dispatcher and one crunch-run share for one container."""
    return _hex(system_root_token, container_uuid.encode())


def request_auth(secret: str, certificate_der: bytes) -> str:
    """Return the controller's proof over the gateway's TLS certificate: useless towards any other gateway."""
    return _hex(secret, certificate_der)


def respond_auth(secret: str, request_proof: str) -> str:
    """Return the gateway's answer to :func:`request_auth`."""
    return _hex(secret, request_proof.encode())


def session_auth(secret: str, request_proof: str, gateway_address: str, session: str) -> str:
    """Return the proof that ties the connection to the recorded address and to the session's user and login name."""
    return _hex(secret, f"{request_proof}\n{gateway_address}\n{session}".encode())


def user_credential(secret: str, session: str) -> str:
    """Return the password of one session, for SSH libraries that cannot do the method ``none``."""
    return _hex(secret, USER_CREDENTIAL_LABEL + session.encode())


def any_username(secret: str, session: str) -> str:
    """Return the controller's word that the user name within SSH means nothing in this session.

    It is for clients that are not ours: a stock one sends the local user's name there, whoever is to log in. Who that
    is, ``session`` says in any case.
    """
    return _hex(secret, ANY_USERNAME_LABEL + session.encode())


def resume_auth(secret: str, session_proof: str, resume: str) -> str:
    """Return the proof that a controller passes ``resume`` on, for the session of one :func:`session_auth`."""
    return _hex(secret, f"{RESUME_AUTH_LABEL}{session_proof}\n{resume}".encode())


def resume_proof(session_secret: str, side: str, session_id: str, attempt: int, received: int) -> str:
    """Return the proof of one ``side`` that it goes on with a session, of which it has ``received`` bytes."""
    return _hex(session_secret, f"{RESUME_PROOF_LABEL}{side}\n{session_id}\n{attempt}\n{received}".encode())


def held_auth(secret: str, request_proof: str, gateway_address: str, sessions: str) -> str:
    """Return the proof that a controller asks the gateway at that address what has become of ``sessions``.

    It opens nothing, so who records it can do no more than ask the same again.
    """
    return _hex(secret, f"{HELD_LABEL}{request_proof}\n{gateway_address}\n{sessions}".encode())


def host_key_seed(secret: str) -> bytes:
    """Return the 32-byte seed of the gateway's Ed25519 host key (RFC 8032 §5.1.5)."""
    return hmac.new(secret.encode(), HOST_KEY_LABEL, hashlib.sha256).digest()


def ecdsa_host_key_number(secret: str) -> int:
    """Return the private number of the gateway's ECDSA P-256 host key.

    512 bits modulo n - 1, plus 1: all numbers are equally likely, but for one part in 2^256 (FIPS 186-5 A.2.1).
    """
    digest = hmac.new(secret.encode(), ECDSA_HOST_KEY_LABEL, hashlib.sha512).digest()
    return int.from_bytes(digest, "big") % (P256_ORDER - 1) + 1


def container_token(system_root_token: str, auth_uuid: str) -> str:
    """Return the secret part of the API token with which one crunch-run keeps its container's record."""
    return _hex(system_root_token, (CONTAINER_TOKEN_LABEL + auth_uuid).encode())


def token_digest(system_root_token: str, token_secret: str) -> str:
    """Return the embedded API's stored digest of an API token: useless with the database but not the root token."""
    return _hex(system_root_token, (TOKEN_DIGEST_LABEL + token_secret).encode())


def controller_auth(
    system_root_token: str, recipient: str, method: str, target: str, moment: str, nonce: str, body: bytes
) -> str:
    """Return the proof by which one controller knows another: for one whole request, at ``moment`` (unix seconds)."""
    parts = (recipient, method, target, moment, nonce, hashlib.sha256(body).hexdigest())
    return _hex(system_root_token, (CONTROLLER_AUTH_LABEL + "\n".join(parts)).encode())


def matches(presented: str, expected: str) -> bool:
    """Compare a presented proof in constant time."""
    return hmac.compare_digest(presented.encode(), expected.encode())
