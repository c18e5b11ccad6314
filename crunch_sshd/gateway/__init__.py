"""The gateway of one container: who may connect to it, and the connections that are open.

Owns the listening socket, the tunnels, the proofs between controller and gateway, and the login. Must not know what
happens in a channel, nor the life of the container itself (``run``).
"""
