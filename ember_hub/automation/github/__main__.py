"""`python -m ember_hub.automation.github cache|erase|watch|issues`: one step of the action."""

from __future__ import annotations

import os
import sys

from ember_hub.automation.github.runner import Step
from ember_hub.automation.github.steps import STEPS
from ember_hub.errors import EmberHubError

if __name__ == "__main__":
    step = Step(os.environ)
    try:
        STEPS[sys.argv[1]](step)
    except EmberHubError as error:
        step.complain(f"{error.message}\n{error.hint}")
        sys.exit(error.exit_code)
