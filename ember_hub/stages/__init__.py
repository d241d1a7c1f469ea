"""The stages of an erasure, each a function from the workshop to files of the run folder.

    workshop    what the stages share: settings, base, pack, run folder, and the model, loaded when first needed
    embed       which rows are the concept's, and how far they move
    baselines   the methods after the embedding edit, and the same methods without it
    verify      every state examined, and examined again after the attack
    deliver     checkpoint, patch, figures, report and card
"""
