"""Images, pictures and actions as tokens of a language model."""
