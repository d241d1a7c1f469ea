"""`python -m ember_hub.cli`."""

from ember_hub.cli.main import main

main()
