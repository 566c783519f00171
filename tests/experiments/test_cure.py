"""The claim of the experiment in small: SymMPO cures most of the planted fault, and costs little.

The dataset is made by the pipeline's rules from the reference's own sampled answers, without its
server and stages, which have tests of their own; training and scoring are the real ones.
"""

from __future__ import annotations

import random

import pytest

from cli.demonstration import WEIGHTS
from experiments.measures import answer_scores
from experiments.plan import NEAREST, SYMMPO, Job
