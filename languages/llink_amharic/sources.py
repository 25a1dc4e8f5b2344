"""Where parallel Amharic-English text can be had, and under which licence."""

from llink.interfaces import Source

SOURCES = (
    Source("TICO-19", "hub dataset gmnlp/tico19", "CC0-1.0"),
    Source("HornMT", "GitHub repository asmelashteka/HornMT", "CC-BY-4.0"),
    Source("FLORES+", "hub dataset openlanguagedata/flores_plus", "CC-BY-SA-4.0"),
    Source("OPUS-100", "hub dataset Helsinki-NLP/opus-100", "not stated; that of each collection in OPUS"),
    Source("Debian catalogues", "Amharic .po and .mo files of Debian packages", "that of each package"),
    Source("Chromium catalogues", "Amharic .xtb files of the Chromium sources", "BSD-3-Clause"),
    Source("LibreOffice catalogues", "Amharic .po files of the LibreOffice translations", "MPL-2.0"),
)
