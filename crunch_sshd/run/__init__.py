"""crunch-run: one container from its record to its end, with a gateway beside it.

Owns the record's states, the Docker container and its output. Must not know SSH: users come in through ``gateway``.
"""
