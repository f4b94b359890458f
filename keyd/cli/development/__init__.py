"""What `keyd dev` puts below one directory: token, certificates, policy, repository, profiles."""
