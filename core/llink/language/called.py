"""What others call a language: NLLB's ``khm_Khmr``, M2M100's ``km``, the column ``khm`` of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llink.interfaces import Language
from llink.language.iso import script


def called(language: Language, codes: Iterable[str]) -> list[str]:
    """Those of ``codes`` that name the language: by its code of ISO 639, and where several do, in its script."""
    found = sorted(code for code in set(codes) if re.split("[_-]", code)[0] in (language.code, language.code3))
    own = [code for code in found if _written_in(language, re.split("[_-]", code)[-1])]
    return own if len(found) > 1 and own else found


def _written_in(language: Language, part: str) -> bool:
    return len(part) == 4 and part.istitle() and not set(script(part).names).isdisjoint(language.scripts)
