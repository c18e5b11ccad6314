"""The private doors of paramiko that the gateway opens, and the check that each exists and has the known shape.

Owns the tables. Paramiko promises none of these from one minor version to the next, so pyproject.toml asks for one
minor version. If another is installed, the gateway says so in one sentence at startup, before a session breaks.
Must not import the modules that open the doors: with another paramiko they could fail before the check reports.
"""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any
from weakref import WeakValueDictionary

import paramiko

from arv_ssh.errors import ConfigError

SUPPORTED = "paramiko>=5.1,<5.2"
"""What pyproject.toml asks for, and what the tables below were read from."""

TRANSPORT = "paramiko.transport:Transport"
CHANNEL = "paramiko.channel:Channel"
PACKETIZER = "paramiko.packet:Packetizer"
CHANNEL_MAP = "paramiko.transport:ChannelMap"

METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    TRANSPORT: {
        "_check_banner": (),
        "_expect_packet": ("ptypes",),
        "_log": ("level", "msg", "args"),
        "_next_channel": (),
        "_parse_channel_open": ("m",),
        "_parse_channel_open_failure": ("m",),
        "_parse_channel_open_success": ("m",),
        "_parse_debug": ("m",),
        "_parse_global_request": ("m",),
        "_parse_kex_init": ("m",),
        "_parse_newkeys": ("m",),
        "_really_parse_kex_init": ("m", "ignore_first_byte"),
        "_send_user_message": ("data",),
        "_unlink_channel": ("chanid",),
        "run": (),
    },
    CHANNEL_MAP: {"get": ("chanid",), "put": ("chanid", "chan")},
    "paramiko.kex_curve25519:KexCurve25519": {"parse_next": ("ptype", "m")},
    "paramiko.kex_group14:KexGroup14SHA256": {"_generate_x": (), "_parse_kexdh_init": ("m",)},
    "paramiko.kex_group16:KexGroup16SHA512": {"_generate_x": (), "_parse_kexdh_init": ("m",)},
    CHANNEL: {
        "_feed_extended": ("m",),
        "_handle_close": ("m",),
        "_handle_eof": ("m",),
        "_handle_request": ("m",),
        "_request_failed": ("m",),
        "_request_success": ("m",),
        "_send_eof": (),
        "_set_remote_channel": ("chanid", "window_size", "max_packet_size"),
        "_set_transport": ("transport",),
        "_set_window": ("window_size", "max_packet_size"),
        "_unlink": (),
        "_window_adjust": ("m",),
    },
    PACKETIZER: {
        "_check_keepalive": (),
        "_read_timeout": ("timeout",),
        "_trigger_rekey": (),
        "handshake_timed_out": (),
        "need_rekey": (),
        "read_message": (),
        "send_message": ("data",),
        "set_inbound_cipher": (
            "block_engine", "block_size", "mac_engine", "mac_size", "mac_key", "etm", "aead", "iv_in",
        ),
        "set_outbound_cipher": (
            "block_engine", "block_size", "mac_engine", "mac_size", "mac_key", "sdctr", "etm", "aead", "iv_out",
        ),
        "write_all": ("out",),
    },
}  # fmt: skip
"""Methods that we call or override, and their parameters after ``self``; including public but undocumented ones."""

_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())

ATTRIBUTES: dict[str, dict[str, tuple[type, ...]]] = {
    TRANSPORT: {
        "_channel_handler_table": (dict,),
        "_channels": (object,),
        "_expected_packet": (tuple,),
        "_kex_info": (dict,),
        "active": (bool,),
        "channels_seen": (dict,),
        "clear_to_send": (threading.Event,),
        "clear_to_send_lock": (_LOCK,),
        "clear_to_send_timeout": (float, int),
        "kex_engine": (object,),
        "lock": (_LOCK,),
        "packetizer": (object,),
        "preferred_kex": (tuple,),
        "preferred_keys": (tuple,),
        "remote_version": (str,),
        "saved_exception": (type(None),),
        "server_key_dict": (dict,),
        "server_object": (object,),
    },
    CHANNEL_MAP: {"_map": (WeakValueDictionary,)},
    CHANNEL: {
        "chanid": (int,),
        "closed": (bool,),
        "eof_received": (bool, int),
        "eof_sent": (bool, int),
        "lock": (_LOCK,),
        "out_buffer_cv": (threading.Condition,),
        "out_max_packet_size": (int,),
        "out_window_size": (int,),
        "remote_chanid": (int,),
        "transport": (object,),
    },
    PACKETIZER: {
        "REKEY_BYTES_OVERFLOW_MAX": (int,),
        "_Packetizer__need_rekey": (bool,),
        "_Packetizer__sequence_number_in": (int,),
        "_Packetizer__sequence_number_out": (int,),
        "_Packetizer__write_lock": (_RLOCK,),
        "_initial_kex_done": (bool,),
        "closed": (bool,),
    },
}
"""Attributes that we read, set or replace, and their types in a new object."""

CHANNEL_MESSAGES = frozenset(range(93, 101))
"""The keys of ``Transport._channel_handler_table``, from SSH_MSG_CHANNEL_WINDOW_ADJUST to SSH_MSG_CHANNEL_FAILURE
(RFC 4254 §9): our table replaces all of paramiko's."""


def check() -> None:
    """Raise :class:`ConfigError` with one sentence unless every door is as the gateway expects."""
    difference = next(differences(), None)
    if difference:
        raise ConfigError(
            f"the gateway cannot run with paramiko {paramiko.__version__}: {difference}; run: pip install '{SUPPORTED}'"
        )


def differences() -> Iterator[str]:
    """Yield each door that has changed, in a few words."""
    for path, methods in METHODS.items():
        for name, parameters in methods.items():
            yield from _method(path, name, parameters)
    # Making a transport takes a socket; nothing is sent before it is started.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = paramiko.Transport(ours)
        new = {TRANSPORT: transport, CHANNEL: paramiko.Channel(0), PACKETIZER: transport.packetizer}
        new[CHANNEL_MAP] = getattr(transport, "_channels", None)
    for path, attributes in ATTRIBUTES.items():
        for name, types in attributes.items():
            yield from _attribute(new[path], name, types)
    if set(getattr(transport, "_channel_handler_table", ())) != CHANNEL_MESSAGES:
        yield "Transport._channel_handler_table has other messages"


def _method(path: str, name: str, parameters: tuple[str, ...]) -> Iterator[str]:
    where = f"{path.partition(':')[2]}.{name}"
    try:
        found = tuple(inspect.signature(getattr(resolve_name(path), name)).parameters)[1:]
    except (ImportError, AttributeError, TypeError):
        yield f"it has no method {where}"
        return
    if found != parameters:
        yield f"{where} takes ({', '.join(found)}), not ({', '.join(parameters)})"


def _attribute(owner: Any, name: str, types: tuple[type, ...]) -> Iterator[str]:
    where = f"{type(owner).__name__}.{name}"
    missing = object()
    found = getattr(owner, name, missing)
    if found is missing:
        yield f"it has no attribute {where}"
    elif not isinstance(found, types):
        yield f"{where} is of type {type(found).__name__}, not {types[0].__name__}"
