"""What the frozen models say of texts, computed once and kept on disk."""
