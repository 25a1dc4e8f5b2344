"""A new language: what its text costs the encoder, its first data, its package."""
