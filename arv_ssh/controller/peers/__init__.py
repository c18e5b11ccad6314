"""The other controllers of a cluster: which they are, how to ask them, and how to pass a session on to one.

Owns addresses and requests between controllers. Must not decide whether a session may begin.
"""
