"""The cluster's config: its file, and the parts that are handed to other programs.

Owns the keys, their defaults and the sentence for each mistake. Must not act on a setting.
"""
