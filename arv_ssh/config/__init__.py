"""The cluster's config: its file, and the parts of it that other programs are handed.

Owns the keys, their defaults and the sentence for each mistake. Must not act on a setting.
"""
