"""Sends an exported folder to the Hub as one commit, and checks there what arrived.

`preflight` answers before the first GPU second whether the push can work; `push` does it. A repository is written to
only if it is empty or holds an earlier result for the same base and concept, and only if nobody changed it since.
Files that are the base's are copied by the Hub, files that it has already are not sent again.

`target` holds the nouns; `local`, `remote` and `changes` compare the two sides; `patience` waits for a busy Hub;
`rejection` says in our words what it refuses; `labels` sets tags and adds to a collection.
"""

from ember_hub.publish.push.changes import Source
from ember_hub.publish.push.delivery import push
from ember_hub.publish.push.labels import label
from ember_hub.publish.push.local import REPORT_FILE
from ember_hub.publish.push.patience import Patience
from ember_hub.publish.push.preflight import preflight
from ember_hub.publish.push.target import LONGEST, Form, Pushed, PushOptions, Target, default_repo

__all__ = ["LONGEST", "REPORT_FILE", "Form", "Patience", "PushOptions", "Pushed", "Source", "Target", "default_repo", "label",
           "preflight", "push"]
