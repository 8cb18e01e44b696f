"""autotune: search, measure and certify caching presets for `xslim`."""
