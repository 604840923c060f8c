"""How long messages, and the pages of long ones, may be under a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from common.ckks import PRESETS, chunks_for
from common.ckks_parameters import SEED_BYTES
from common.errors import PlanError
from common.messages import MAX_MANIFEST_BYTES, UPLOAD_KINDS, Kind
from common.plan_content import PlanContent
from common.request_frames import MAX_REQUEST_HEADER_BYTES
from common.transcript import path_bytes
from common.wire import SIGNED_PARTS_BYTES

MOST_PAGES = 60_000
# What a request brings to a hospital that was away, where one sum is not longer; see `server.requests.PartLimits`.
CATCH_UP_BYTES = 32 << 20
# A model in a checkpoint: two vectors of doubles, besides nonce and tag.
_CHECKPOINT_BYTES_PER_PARAMETER = 16
_CHECKPOINT_REST_BYTES = 64
_HEAD_BYTES = MAX_REQUEST_HEADER_BYTES + SIGNED_PARTS_BYTES


@dataclass(frozen=True, slots=True)
class PageSizes:
    """What a plan says of lengths, all in bytes.

    Args:
        page_bytes: Length of a page; the last one of a head or of a rest may be shorter.
        whole_bytes: A message whose body is no longer goes whole.
        most_request_bytes: Longest request that the plan has a use for.
        most_upload_bytes: Longest reply with an upload.
        most_checkpoint_bytes: Longest reply with a model.
    """

    page_bytes: int
    whole_bytes: int
    most_request_bytes: int
    most_upload_bytes: int
    most_checkpoint_bytes: int

    @classmethod
    def of(cls, plan: PlanContent) -> Self:
        """Those of an agreed plan."""
        parameters = PRESETS[plan.encryption.preset]
        chunks, record = chunks_for(plan.upload_values, parameters), parameters.chunk_bytes + SEED_BYTES
        hospitals, checkpoint = len(plan.roster), _CHECKPOINT_BYTES_PER_PARAMETER * plan.agreed.trainable_parameters
        # The highest place has the longest path.
        records = hospitals * chunks * (record + max(path_bytes(0, chunks), path_bytes(chunks - 1, chunks)))
        total = chunks * (record + SEED_BYTES * (hospitals - 1))
        most_checkpoint = _HEAD_BYTES + checkpoint + _CHECKPOINT_REST_BYTES
        return cls(
            page_bytes=plan.cohort.page_kib << 10,
            whole_bytes=plan.cohort.whole_kib << 10,
            # A restored model is what a site sent in reply to `checkpoint`.
            most_request_bytes=_HEAD_BYTES + max(CATCH_UP_BYTES + total + records, most_checkpoint),
            most_upload_bytes=MAX_MANIFEST_BYTES + SIGNED_PARTS_BYTES + chunks * record,
            most_checkpoint_bytes=most_checkpoint,
        )

    def is_long(self, body_bytes: int) -> bool:
        """Whether a message with such a body goes in pages."""
        return body_bytes > self.whole_bytes

    def most_reply_bytes(self, kind: Kind) -> int:
        """Longest reply to a request of some kind."""
        if kind in UPLOAD_KINDS:
            return self.most_upload_bytes
        return self.most_checkpoint_bytes if kind == "checkpoint" else _HEAD_BYTES

    def check(self) -> None:
        """Refuse pages that are too short for the longest message: its outline would be longer than is taken.

        Raises:
            PlanError: Says the least length that will do.
        """
        # Those of the head and those of the rest begin anew, so one more than the bytes take.
        pages = -(-self.most_request_bytes // self.page_bytes) + 1
        if pages > MOST_PAGES:
            least = -(-self.most_request_bytes // ((MOST_PAGES - 1) << 10))
            raise PlanError(
                f"cohort.page_kib: seen {self.page_bytes >> 10}, with which a request of this plan may have {pages} "
                f"pages; at most {MOST_PAGES} are allowed; set at least {least}"
            )
