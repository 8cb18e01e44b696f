"""Layer 4: proposes policies, has them measured, keeps the results, exports presets."""
