"""What lets anyone make a published result again, and how what they made is held against it.

`recipe` and `environment` write `reproduce/` into every published folder; `original` reads a published result with distrust;
`comparison` says what is equal: files by their hashes, scores by their intervals.
"""

FOLDER = "reproduce"
RECIPE, ENVIRONMENT, REQUIREMENTS, ABOUT, SUMS, PACK = (
    f"{FOLDER}/{name}" for name in ("recipe.toml", "environment.json", "requirements.txt", "README.md", "SHA256SUMS", "pack"))
CARD = "README.md"
"""Not among the sums: it names the repository it lies in, and that may change."""
