"""Releases of watched bases, and work that is started for them, here or on the Hub's own machines.

    from ember_hub.automation.releases import Watch
    from ember_hub.automation.watching import Watcher

`releases` holds the nouns, `discovery` finds and sifts releases, `memory` knows what is done, `claim` keeps two watchers from doing
it twice, `work` and `jobs` do it, `watching` is the way through; `webhook`, `registration` and `workflow` are other ways to begin.
"""
