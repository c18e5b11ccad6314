"""What one client's connection may make the gateway keep: each limit, its reason, and what OpenSSH's sshd has.

Owns the numbers; whoever keeps something looks here, and says no when it is too much. Pure.

sshd is a process for each connection, and can leave many of these to the system's limits. The gateway is one process
for all users of a container, and the container's own crunch-run: nothing that a client sends may add up in it.
"""

from __future__ import annotations

REQUEST_SIZE = 16 * 1024
"""Bytes of a channel-open or of a global request: while it is worked on, all of it is kept. A path is 4,096 at most.
sshd: 256 KiB, the longest packet."""
KIND_LENGTH = 64
"""Characters of a type's or a request's name, as RFC 4251 §6 has it. A refusal repeats the name. sshd: the packet."""
NAME_LENGTH = 255
"""Characters of a host's name: the longest that DNS has (RFC 1035 §2.3.4). sshd: 1,025 (NI_MAXHOST)."""
PATH_LENGTH = 4096
"""Bytes of a unix socket's path (PATH_MAX); the kernel takes 107 of them. sshd: the packet."""

ENVIRONMENT_VARIABLES = 128
"""Variables that a client sets for a session. sshd: 128."""
ENVIRONMENT_SIZE = 128 * 1024
"""Bytes of them all, as the program gets them: names, values, two more each. Linux takes no single one that is longer.
sshd: 128 packets of 256 KiB."""

WAITING_FORWARDS = 100
"""Requests to listen or to stop listening that wait for their turn: as many as there may be places to listen at.
sshd: none, it works on each at once."""
MAX_LISTENERS = 100
"""Places to listen at on one connection. sshd: as many as it has descriptors."""
MAX_FORWARDS = 400
"""Forwarded connections on one SSH connection, those that are being made among them: each takes a descriptor, of which
a process has 1,024, and a thread. sshd: as many as it has descriptors."""

REPLIES_WAITING = 1000
"""Replies that wait to be sent, or for one that comes before them; a client that reads lets only a few pile up, and one
that does not loses its connection. sshd: it stops reading once 128 KiB wait."""

SMALL_PIECE = 4096
"""Bytes of data below which what waits for a program is copied together: kept as it came, a byte costs 317.
sshd: one buffer for a channel."""
WINDOW_SIZE = 2 * 1024 * 1024
"""Bytes a client may send ahead on a channel: what OpenSSH itself uses; 64 MiB made uploads four times slower."""

RESIZE_INTERVAL = 0.02
"""Seconds between two changes of a terminal's size: of those that come sooner only the newest counts. No screen is
drawn more often. sshd: each counts, which costs it microseconds."""

IDENTIFICATION_SIZE = 8 * 1024
"""Bytes in which a client's identification line must end; RFC 4253 §4.2 has 255 for it. sshd: 8 KiB."""
