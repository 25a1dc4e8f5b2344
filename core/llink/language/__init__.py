"""What is known of a language: its text, scripts and codes, and the values in a text that an answer must keep."""
