"""Which certificates a client believes, where those of the system are not the right ones."""

from __future__ import annotations

import ssl
from pathlib import Path

END = "-----END CERTIFICATE-----"


def trusting(ca: Path) -> ssl.SSLContext:
    """The system's authorities and this one; a server may also show the very certificate in the file."""
    found = ssl.create_default_context()
    found.load_verify_locations(ca)
    found.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return found


def pinned(certificate: Path) -> ssl.SSLContext:
    """The first certificate of this file alone, under whatever name: a server that lies beside us."""
    own = certificate.read_text().partition(END)[0] + END
    found = ssl.create_default_context(cadata=own)
    found.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    found.check_hostname = False  # only its own key answers to it
    return found
