"""Longest frame that passes between gateway and site, or comes in one Flower message."""

from typing import Final

# A body that goes whole has at most 64 MiB (`cohort.whole_kib`), a request's header at most 8 MiB; a page has at most
# 64 MiB (`cohort.page_kib`), and what is longer goes in pages.
MAX_FRAME_BYTES: Final = 80 << 20
