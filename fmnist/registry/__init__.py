"""Runs and the champion in a store: the commit protocol.

Unless it says otherwise, everything that is given a store raises `DamagedError` if what it reads is
damaged, missing or not what its record says, and `StoreError` if the store cannot be read or written.
"""
