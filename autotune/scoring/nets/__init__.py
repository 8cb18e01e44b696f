"""Networks whose features the metrics use."""
