"""Layer 3: runs a pipeline under a policy and measures quality and latency."""
