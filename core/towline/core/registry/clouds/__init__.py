"""Identities that clouds give: each a few exchanges, with no vendor's library.

Source:  registries-b.md §3, §4, §7
"""
