"""What this version does not protect against yet: every run says it."""

NOT_COVERED = (
    "not covered yet: the sum of a round, which a coordinator together with a hospital can read and which only the "
    "noise in it protects; poisoned updates; model and open rounds on the sites' disks (docs/threat-model.md)"
)
