"""Recorded episodes on disk, read into one form and gathered into training windows."""
