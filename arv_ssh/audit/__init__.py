"""The audit: who entered which container and what was done there, in files that show when they were tampered with.

``chain`` is the form of a file and how it is checked, ``chain_file`` the files on disk, ``journal`` the way of a record
from who has it to the disk, ``trail`` what the mode of the cluster's config makes of all that.
"""
