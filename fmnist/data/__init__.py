"""The data set: fetched, verified, checked and split."""
