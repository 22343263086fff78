"""From waiting rows to logits: scheduling, the engine and its back ends."""
