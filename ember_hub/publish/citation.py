"""Whom to cite: the papers behind what a run used, as BibTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ember_hub.publish.markup import papers

EMBER = "2606.03695"
_PAPERS: Mapping[str, str] = MappingProxyType({
    EMBER: """@article{suslik2026embeddings,
  title   = {Don't Forget Your Embeddings: Robust Knowledge Erasure via Precise Editing of Embeddings},
  author  = {Suslik, Clara Haya and Shafran, Or and Geva, Mor},
  journal = {arXiv preprint arXiv:2606.03695},
  year    = {2026}
}""",
    "2403.03218": """@article{li2024wmdp,
  title   = {The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning},
  author  = {Li, Nathaniel and others},
  journal = {arXiv preprint arXiv:2403.03218},
  year    = {2024}
}""",
})


def bibtex(methods: Sequence[Mapping[str, Any]]) -> str:
    """Entries for the paper of EMBER and for each paper that a method of the run refers to."""
    numbers = dict.fromkeys([EMBER, *(number for method in methods for _, number in papers(method["reference"]) if number)])
    return "\n\n".join(_PAPERS.get(number) or _bare(number) for number in numbers)


def _bare(number: str) -> str:
    """As much as the number tells; a title or an author that nobody looked up is not made up."""
    return f"@misc{{arxiv{number.replace('.', '')},\n  eprint        = {{{number}}},\n  archivePrefix = {{arXiv}}\n}}"
