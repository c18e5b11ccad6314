"""What is recorded of an SSH connection: its channels, its file transfers, its terminals.

Owns what is looked at and which record is made of it. Must not decide what a session may do; how records reach the disk
is :mod:`arv_ssh.audit`'s.
"""
