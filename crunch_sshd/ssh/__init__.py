"""One SSH connection over paramiko: its transport, channels, packets and sockets.

Owns all access to paramiko's private parts, and the flow of bytes and memory through a connection. Must not know what
a channel is for: sessions, forwarding, containers and the audit belong to other packages.
"""
