"""Patches as files: the rows of an embedding that an edit replaces. Nothing here imports torch."""
