"""Where parallel Burmese-English text can be had, and under which licence."""

from llink.interfaces import Source

SOURCES = (
    Source("TICO-19", "hub dataset gmnlp/tico19", "CC0-1.0"),
    Source("TALPCo", "GitHub repository matbahasa/TALPCo", "CC-BY-4.0"),
    Source("FLORES+", "hub dataset openlanguagedata/flores_plus", "CC-BY-SA-4.0"),
    Source("OPUS-100", "hub dataset Helsinki-NLP/opus-100", "not stated; that of each collection in OPUS"),
    Source("Debian catalogues", "Burmese .po and .mo files of Debian packages", "that of each package"),
    Source("Chromium catalogues", "Burmese .xtb files of the Chromium sources", "BSD-3-Clause"),
    Source("Kolibri", "PyPI package kolibri, its translation catalogues", "MIT"),
)
