"""The method: the prompt and its slots, the bridge, LoRA, and an adapter as files."""
