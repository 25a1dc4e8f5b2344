"""Where parallel Khmer-English text can be had, and under which licence."""

from llink.interfaces import Source

SOURCES = (
    Source("TICO-19", "hub dataset gmnlp/tico19", "CC0-1.0"),
    Source("FLORES+", "hub dataset openlanguagedata/flores_plus", "CC-BY-SA-4.0"),
    Source("OPUS-100", "hub dataset Helsinki-NLP/opus-100", "not stated; that of each collection in OPUS"),
    Source("ParaCrawl bonus", "ParaCrawl, bonus release English-Khmer", "CC0-1.0 (the packaging, not the text)"),
    Source("Debian catalogues", "Khmer .po and .mo files of Debian packages", "that of each package"),
    Source("Chromium catalogues", "Khmer .xtb files of the Chromium sources", "BSD-3-Clause"),
    Source("LibreOffice catalogues", "Khmer .po files of the LibreOffice translations", "MPL-2.0"),
)
