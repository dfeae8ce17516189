"""Bytes by key in a folder or a bucket, written conditionally."""
