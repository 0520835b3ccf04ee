"""What reads images and text together."""
