-- Signing asks whether officers ever let an operation happen: not by reading every proposal.
CREATE INDEX proposals_of_operation ON proposals (operation_sha256);
