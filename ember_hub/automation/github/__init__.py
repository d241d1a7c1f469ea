"""What the GitHub Action does around a command: inputs to words, a result to outputs, a summary, and an issue.

Inputs arrive as environment variables (`INPUT_MODEL`) and never pass a shell. Each step of the action is
`python -m ember_hub.automation.github STEP`.
"""
