"""The loop of an SFTP session: requests from one descriptor, answers to another.

While the client does not read its answers, no more requests are taken: waiting data is only in two buffers of fixed
size and the pipes.
"""

from __future__ import annotations

import os

from crunch_sshd.inside.sftp.operations import Operations
from crunch_sshd.inside.sftp.wire import Answers, Packets


def serve(stdin: int, stdout: int, home: bytes, limit: int) -> None:
    """Answer requests until end of file; raises :class:`wire.Malformed`, and BrokenPipeError if nothing takes answers.

    Answers to what came in one read leave in one write, in the order of the requests.
    """
    packets, answers = Packets(), Answers()
    operations = Operations(answers, home, limit)
    while size := os.readv(stdin, packets.space):
        try:
            for kind, request_id, packet in packets.received(size):
                if answers.size > Answers.FULL:
                    _send(stdout, answers)
                operations.handle(kind, request_id, packet)
        finally:
            _send(stdout, answers)
        if operations.listed is not None:
            operations.use_pause(operations.listed)


def _send(stdout: int, answers: Answers) -> None:
    rest = answers.take()
    while rest:
        rest = rest[os.write(stdout, rest) :]
