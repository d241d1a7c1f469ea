"""Attempts to bring erased knowledge back."""
