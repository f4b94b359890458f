"""The token worker: the only program that loads a PKCS#11 module or a smart-card library."""
