"""What is added once a result is on the Hub and verified: git tags, and a place in a collection."""

from __future__ import annotations

from functools import partial

from ember_hub.errors import PushRejected
from ember_hub.publish.push.patience import Patience
from ember_hub.publish.push.rejection import hub_errors
from ember_hub.publish.push.target import Pushed, Target


def label(pushed: Pushed, target: Target, patience: Patience | None = None) -> None:
    """Set the tags on the commit and add the repository to the collection; what is so already stays.

    Raises:
        PushRejected: a tag names another commit, or the Hub says no. The result itself is there all the same.
    """
    from huggingface_hub import HfApi

    patience, api = patience or Patience(), HfApi()
    with hub_errors(target.repo), patience.on_the_wire():
        for tag in target.options.tags:
            # `exist_ok` takes a tag of that name on any commit.
            patience.call(partial(api.create_tag, target.repo, tag=tag, revision=pushed.commit, exist_ok=True))
        if target.options.tags:
            named = {ref.name: ref.target_commit for ref in patience.call(lambda: api.list_repo_refs(target.repo)).tags}
            for tag in target.options.tags:
                if named.get(tag) != pushed.commit:
                    raise PushRejected(f"the result is at {pushed.url}, but its tag {tag} names {named.get(tag, 'nothing')[:12]}",
                                       hint="choose another --tag, or delete that one on the Hub, then push again")
    if slug := target.options.collection:
        with hub_errors(f"the collection {slug}"), patience.on_the_wire():
            patience.call(lambda: api.add_collection_item(slug, item_id=target.repo, item_type="model", exists_ok=True))
