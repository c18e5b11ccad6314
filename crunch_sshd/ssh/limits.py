"""Limits on what one client's connection can make the gateway keep: each with its reason, and OpenSSH's sshd's limit.

Owns the numbers; code that keeps something checks them here and refuses what exceeds them. Pure.

sshd is one process per connection, and can leave many of these to the system's limits. The gateway is one process for
all users of a container: nothing that a client sends may pile up in it.
"""

from __future__ import annotations

REQUEST_SIZE = 16 * 1024
"""Bytes in a channel-open or a global request: all of it is kept while it is worked on. A path is at most 4,096.
sshd: 256 KiB, the longest packet."""
KIND_LENGTH = 64
"""Characters in the name of a type or a request (RFC 4251 §6). A refusal repeats the name. sshd: the packet."""
NAME_LENGTH = 255
"""Characters in a host name: the longest DNS allows (RFC 1035 §2.3.4). sshd: 1,025 (NI_MAXHOST)."""
PATH_LENGTH = 4096
"""Bytes in a unix socket's path (PATH_MAX); the kernel accepts 107. sshd: the packet."""

ENVIRONMENT_VARIABLES = 128
"""Variables that a client may set for a session. sshd: 128."""
ENVIRONMENT_SIZE = 128 * 1024
"""Bytes of all variables, as the program gets them: name, value, and two more each. Linux accepts no single one that is
longer. sshd: 128 packets of 256 KiB."""

COMMAND_SIZE = 128 * 1024 - 1
"""Bytes of a command: Linux executes none that is longer (execve(2), MAX_ARG_STRLEN). sshd: the packet."""
TERM_LENGTH = 256
"""Characters in the name of a terminal's type. sshd: the packet."""
MODES_SIZE = 1024
"""Bytes of a terminal's modes: the 57 of RFC 4254 §8 have 286. sshd: the packet."""

WAITING_FORWARDS = 100
"""Requests to listen or to stop listening that may wait their turn: as many as the places to listen at.
sshd: none, it handles each at once."""
MAX_LISTENERS = 100
"""Places to listen at on one connection. sshd: as many as it has descriptors."""
# Forwarded connections have no limit but the gateway's memory and its descriptors, of which some are kept for logins
# (crunch_sshd/ssh/descriptors.py). sshd: as many as it has descriptors.

REPLIES_WAITING = 1000
"""Replies that wait to be sent, or for an earlier one; a client that reads lets only a few pile up, and one that does
not read loses its connection. sshd: it stops reading once 128 KiB wait."""

SMALL_PIECE = 4096
"""Pieces shorter than this many bytes are copied together while they wait for a program: a byte kept as it came costs
317. sshd: one buffer for a channel."""
WINDOW_SIZE = 2 * 1024 * 1024
"""Bytes a client may send ahead on a channel: what OpenSSH itself uses; 64 MiB made uploads four times slower."""

ADDRESS_LENGTH = 64
"""Characters of a client's address as a controller reports it; the longest, an IPv6 address with a zone, has fewer."""
PORT_CONNECTIONS = 200
"""HTTP requests and WebSockets to ports of the container at once, for all users: each takes up to half a megabyte.
A browser makes six to one host, and a notebook has a WebSocket for each kernel. sshd: has none."""
LOG_REQUESTS = 50
"""Requests for logs at once, for all users: each takes up to a megabyte while its client reads slowly. sshd: has
none."""

RESIZE_INTERVAL = 0.02
"""Seconds between two changes of a terminal's size: of those that come sooner, only the newest counts. No screen
redraws more often. sshd: each counts, which costs it microseconds."""

UNPROVEN_CONNECTIONS = 100
"""Connections to the gateway's port without a whole request: anyone who reaches it can open them, and each takes some
60 KB. Beyond it the oldest one of the address with most goes, of those that have not even begun TLS if there are any.
sshd: MaxStartups 10:30:100, of which it drops new ones."""

WAITING_SESSIONS = 500
"""Sessions that wait for a new connection at once; beyond it, of the user with most of them the one that waits longest
ends. sshd: none."""
WAITING_BYTES = 256 * 1024 * 1024
"""Bytes kept for all of them, of up to 8 MiB each; a quarter of the gateway's memory where that is less. Who has most
loses first. sshd: none."""

IDENTIFICATION_SIZE = 8 * 1024
"""Bytes within which a client's identification line must end; RFC 4253 §4.2 allows 255. sshd: 8 KiB."""
