"""`python -m tests.system.injected`: writes docs/injected-faults.md. Whether it is true, the tests say."""

from __future__ import annotations

from tests.system.injected.page import PAGE, page

PAGE.write_text(page())
