"""Who may enter, and by which proof: the decision table, the credentials, the session claim, the host key. Pure.

Owns the derivations that a controller and a gateway must agree on to the bit. Must not do I/O, nor know how a proof
travels.
"""
