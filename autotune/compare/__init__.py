"""Every method of the field beside ours, on the same cases in one run."""
