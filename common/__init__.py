"""What the coordinator and the hospitals agree on: configuration, identities, codecs, messages."""
