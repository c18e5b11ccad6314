"""A controller as a process of its host: start, sockets, signals, routes, metrics, and the supervisor of several.

Owns what comes up and goes down, in which order, and what an operator sees of it. Must not know how a session begins
(``shell``).
"""
