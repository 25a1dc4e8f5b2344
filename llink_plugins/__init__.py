"""Built-in encoder and decoder backends, one folder each, registered like any third party's."""
