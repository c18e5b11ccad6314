"""The records of an SSH connection: its channels, its file transfers, its terminals.

Owns the choice of what to look at and which record to make of it. Must not decide what a session may do;
:mod:`arv_ssh.audit` brings the records to the disk.
"""
