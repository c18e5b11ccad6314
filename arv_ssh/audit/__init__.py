"""The audit: who entered which container and what was done there, in files that show when they were tampered with.

``chain`` is the form of a file and how it is checked, ``chain_file`` the files on disk, ``journal`` a record's way from
its caller to the disk, ``trail`` the effect of the mode in the cluster's config.
"""
