"""What this version does not protect against yet: every run says it."""

NOT_COVERED = (
    "not covered yet: a site that is restored from an old backup does not ask its peers how far it was; "
    "see docs/threat-model.md for this and for what the masks do not hide"
)
