"""What a search or a comparison found, as pages, pictures and tables."""
