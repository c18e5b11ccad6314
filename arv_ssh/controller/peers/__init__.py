"""The other controllers of a cluster: who they are, how they are asked, and how a session is passed on to one.

Owns addresses and requests between controllers. Must not decide whether a session may begin.
"""
