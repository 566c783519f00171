"""The recipe that makes the miniature world's four models from nothing: `python -m miniature.making`."""
