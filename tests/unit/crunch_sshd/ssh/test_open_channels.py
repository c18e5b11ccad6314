"""Channels found by their numbers as paramiko finds them, and no others."""

from __future__ import annotations

from paramiko.transport import ChannelMap

from crunch_sshd.ssh.channel import GatewayChannel
from crunch_sshd.ssh.open_channels import ChannelNumbers, finder, no_channel


def test_found_as_paramiko_finds() -> None:
    """A channel is found from when it is put until it is deleted, or nobody holds it any more."""
    channels = ChannelMap()
    find = finder(channels)
    assert find(1, no_channel)() is None
    one, two = GatewayChannel(1), GatewayChannel(2)
    for channel in (one, two):
        channels.put(channel.chanid, channel)
        assert find(channel.chanid, no_channel)() is channel is channels.get(channel.chanid)
    channels.delete(1)
    assert find(1, no_channel)() is None and find(2, no_channel)() is two
    del channel, two
    assert find(2, no_channel)() is None and channels.get(2) is None


def test_numbers_so_far() -> None:
    """Each number up to the highest is one that there has been, and the table does not grow."""
    numbers = ChannelNumbers()
    assert 0 not in numbers
    for number in range(1000):
        numbers[number] = True
    assert all(number in numbers for number in (0, 999)) and len(numbers) == 0
    assert 1000 not in numbers and -1 not in numbers
