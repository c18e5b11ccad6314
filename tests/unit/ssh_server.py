"""A small SSH server for the double: accepts the method none, and answers exec with what was asked, stdin included."""

from __future__ import annotations

import socket
import threading

import paramiko
from paramiko import common

from tests.unit.controller_double import UNIT, Peer


class EchoServer(paramiko.ServerInterface):
    """Runs one "command": prints the login name and the command line, then copies stdin, exits with 7."""

    def __init__(self, key: paramiko.PKey) -> None:
        self.key = key
        self._user = ""

    def check_auth_none(self, username: str) -> int:
        self._user = username
        return common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return common.OPEN_SUCCEEDED if kind == "session" else common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: bytes) -> None:
        channel.sendall(f"{self._user}: ".encode() + command + b"\n")
        while data := channel.recv(65536):
            channel.sendall(data)
        channel.send_exit_status(7)
        channel.close()

    def serve(self, peer: Peer) -> None:
        """Serve one connection of the double; it has answered 101."""
        ours, theirs = socket.socketpair()
        transport = paramiko.Transport(theirs)
        transport.add_server_key(self.key)
        try:
            transport.start_server(server=self, event=threading.Event())
            peer.sock.settimeout(UNIT)
            with ours:
                peer.relay(ours)
        finally:
            transport.close()
