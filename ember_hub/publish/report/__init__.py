"""The report for people: one self-contained page and a Markdown text, from report.json, the samples and the figures of a run."""
