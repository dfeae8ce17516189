"""The data set: fetched, verified, checked and split.

What cannot be had or is not fit to use is a `DataError`.
"""
