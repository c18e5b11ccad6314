"""An SFTP server of protocol version 3 for one container, with the extensions that OpenSSH's sftp-server has.

Runs as a process of its own for each channel: it imports what it needs, enters the container as the session's user
(:mod:`crunch_sshd.inside.enter`), and serves on its stdin and stdout. So it needs nothing in the image, and can reach
nothing of the host. The measure is OpenSSH 9.2's sftp-server: the same status for the same request.

The modules here import little of the standard library, and nothing else: a transfer waits for them.
"""
