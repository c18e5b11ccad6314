"""A layer between ssh-proxy and gateway by which a session outlives its connection.

Owns the frames, what is kept until the other end has confirmed it, and the proofs that a new connection continues an
old session. Must not know sockets, threads or SSH: both ends drive it, each in its own way.
"""
