"""Bytes on their way: TLS, HTTP, upgrades, relays, listening sockets, peers that are gone.

Owns protocols and flow control. Must not know clusters, users or containers, nor why a connection was opened.
"""
