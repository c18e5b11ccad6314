"""Processes on one host: whether one is alive, and when a child has ended.

Owns lock files and waiting for children. Must not know what a process does.
"""
