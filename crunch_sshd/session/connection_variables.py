"""The variables that tell a program about its SSH connection: SSH_CLIENT and SSH_CONNECTION, as sshd sets them. Pure.

Owns their text. The client is the user's machine, as the controller reports it; the server is the gateway. What is not
known has the value that sshd gives it (packet.c, ssh_remote_ipaddr): the word UNKNOWN, the port 65535.
"""

from __future__ import annotations

import ipaddress

UNKNOWN = "UNKNOWN"
UNKNOWN_PORT = "65535"


def variables(client: str, gateway: str) -> dict[str, str]:
    """Return both variables; ``gateway`` is a gateway's address on a record, "HOST:PORT" or "tunnel URL".

    The client's port is never known: the controller reports an address only.
    """
    host, _, port = gateway.rpartition(":")
    server = _address(host.strip("[]"))
    if server == UNKNOWN:
        port = UNKNOWN_PORT
    address = _address(client)
    return {
        "SSH_CLIENT": f"{address} {UNKNOWN_PORT} {port}",
        "SSH_CONNECTION": f"{address} {UNKNOWN_PORT} {server} {port}",
    }


def _address(text: str) -> str:
    """Return an IP address as it was written, or as IPv4 where it is that (as sshd); programs hand the field on."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return UNKNOWN
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped) if mapped else text
