"""The last file of the suite: what ran is what docs/doors.md says."""

import os
from pathlib import Path

import pytest

from conformance import matrix

pytestmark = pytest.mark.platform


def test_the_matrix_in_the_docs_is_what_this_run_saw(request):
    """`CITYBRAIN_CONFORMANCE_WRITE=1` writes it; without, a difference fails."""
    ran = {item.path for item in request.session.items}
    files = set(Path(__file__).parent.glob("test_*.py"))
    if not files <= ran or request.config.option.keyword:
        pytest.skip("only a part of the suite ran")
    found = matrix.table(request.config)
    if "CITYBRAIN_CONFORMANCE_WRITE" in os.environ:
        matrix.write(found)
    assert found == matrix.committed(), "make it again with CITYBRAIN_CONFORMANCE_WRITE=1"
