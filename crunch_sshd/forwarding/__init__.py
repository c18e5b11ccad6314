"""Forwarding: -L, -D, -W, -R, Unix sockets, the agent, and which of these a site allows.

Owns the channels that are joined to sockets, and the gateway's side of the broker that makes those sockets inside the
container. Must not know a session's program, nor enter a container itself (``inside``).
"""
