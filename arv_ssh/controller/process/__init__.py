"""A controller as a process of its host: start, sockets, signals, routes, metrics, and the supervisor of several.

Owns the order in which parts start and stop, and what an operator sees of it. Must not know how a session begins
(``shell``).
"""
