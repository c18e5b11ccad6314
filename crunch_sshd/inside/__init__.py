"""All code that runs in a container's namespaces, and the one place that starts it.

This package is the security boundary between the gateway and a container, from both sides. :mod:`start` is the
gateway's part: the only place that starts a process for a container other than through the engine or its OCI runtime.
Everything else runs in a fresh, single-threaded process which first becomes what the engine's own exec would be
(:mod:`enter`: control groups, limits, namespaces, root, ids, capabilities, security label, seccomp filters), and
touches nothing of the container before. If any restriction cannot be taken on, it refuses; there is no "almost".

Modules that run inside import only the standard library and each other, and only before they enter; afterwards they
can import nothing, since every path is then the container's.
"""
