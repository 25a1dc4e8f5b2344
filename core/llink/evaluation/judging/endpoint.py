"""A judge behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llink.evaluation.judging import FIRST, SECOND, SYSTEM, TIE, UNCLEAR, Comparison, Judge
from llink.store.endpoint import Endpoint, without_thoughts

_REPLY = re.compile(r"\W*(?:answer\W+)?(a|b|tie)\b", re.IGNORECASE)


class EndpointJudge(Endpoint, Judge):
    """Asks one comparison at a time; arguments are those of ``Endpoint``."""

    role, kept, variable = "judge", "verdicts", "LLINK_JUDGE_KEY"

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """See ``Judge``; ``unclear`` where the reply is none of the three words."""
        return [read(self.reply(SYSTEM, comparison.prompt, 8)[0]) for comparison in comparisons]


def read(reply: str) -> str:
    """The verdict in a reply: it must begin with the word."""
    found = _REPLY.match(without_thoughts(reply))
    return {"a": FIRST, "b": SECOND, "tie": TIE}[found[1].lower()] if found else UNCLEAR
