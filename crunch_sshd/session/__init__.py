"""A session channel: its requests, the command they lead to, and what watches it.

Owns the order of a session, from its first request to its exit status. Must not know how a program gets into the
container (``runtimes``), nor how a channel's bytes travel (``ssh``).
"""
