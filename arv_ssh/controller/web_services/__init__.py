"""Web services of containers: a browser's requests, by the name in their Host header, to a port of a container.

Owns the way from a name to a port, who may use it, and what of the user's credentials goes no further.
"""
