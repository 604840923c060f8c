"""What this version does not protect against yet: every run says it."""

NOT_COVERED = (
    "not covered yet: all hospitals share one CKKS key, so a hospital that obtains a peer's upload can read that "
    "peer's update; and hospitals cannot recompute the sum of a round (docs/threat-model.md)"
)
