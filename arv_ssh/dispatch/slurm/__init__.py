"""``crunch-dispatch-slurm``: runs a cluster's containers as jobs of Slurm.

Owns everything that is Slurm's: its programs and their text formats, jobs, the order of those that wait. Must not know
what is decided about a container: that is :mod:`arv_ssh.dispatch.dispatcher`'s.
"""
