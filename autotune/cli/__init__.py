"""Layer 5: the command line. One file a verb; heavy imports stay inside the commands."""
