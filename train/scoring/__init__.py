"""Scorers: log-probabilities of responses by a naive and a prefix-shared layout."""

from train.scoring.families import unused_parameters
from train.scoring.scorer import Scorer, check_layouts

__all__ = ["Scorer", "check_layouts", "unused_parameters"]
