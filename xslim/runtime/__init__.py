"""Layer 2: applies a policy to a live diffusers transformer."""
