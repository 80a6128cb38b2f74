"""A retest as one HTML page that loads nothing."""

from typing import Any

from ..rendering.pages import render_page
from .retest_words import retest_tables, retest_verdict


def retest_page(retest: Any) -> str:
    """The page: the verdict, a table for each figure, the controls, and what was edited."""
    facts = retest.facts
    shown = {
        "Concept model": f"{facts['concept_model'] or 'not named'} ({facts['fingerprint'][:12]})",
        "Host": f"{facts['host']['name'] or 'not named'} ({facts['host']['weights']}, {facts['host']['architecture']})",
        "Concepts": ", ".join(map(str, facts["forbid"])),
        "How": f"{facts['how']}, {'tokens with the concept' if facts['positions'] == 'code' else 'all tokens'}",
        "Texts": f"{facts['num_texts']:,} ({facts['num_labelled']:,} with a label; {facts['num_left_out']:,} empty)",
        "clvq-hf": facts["clvq_hf"],
    }
    return render_page(
        "auditing/retest.html", verdict=retest_verdict(retest), tables=retest_tables(retest), facts=shown.items()
    )


__all__ = ["retest_page"]
