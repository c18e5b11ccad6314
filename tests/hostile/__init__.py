"""Clients that mean harm, against a real gateway: what they may take of it, and that the next user is served."""
