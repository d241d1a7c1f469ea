"""Patches as files: the rows of an embedding that an edit replaces. Nothing here imports torch before a model is there.

    patch = Patch.open(folder)            read and checked; no base is needed
    apply(patch, base, out, progress)     a checkpoint folder with the new rows
    revert(patch, edited, out, progress)  and without them, bit for bit
"""
