"""Text encoders, language models, and how these write."""
