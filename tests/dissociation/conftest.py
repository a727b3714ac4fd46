"""Planted outcomes and their study, which the tests of its statistics share."""

import pytest
from made_batteries import LABELS, battery, planted, study_of

from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.lesions.outcomes import Outcomes


@pytest.fixture(scope="session")
def outcomes() -> Outcomes:
    return battery(planted(), LABELS)


@pytest.fixture(scope="session")
def study(outcomes: Outcomes) -> LesionStudy:
    return study_of(outcomes, LABELS)
