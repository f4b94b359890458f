"""`make demo`: a TUF repository whose every signature comes from keys on a PKCS#11 token."""
