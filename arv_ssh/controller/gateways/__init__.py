"""The controller's ways to a gateway: dialled over TCP, or through a tunnel that the gateway keeps open.

Owns the dial and the proofs on it. Must not know who enters, nor why.
"""
